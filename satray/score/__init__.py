"""From a bundle and tiles to tables and maps: forward, write, and the Ray pipeline over both."""

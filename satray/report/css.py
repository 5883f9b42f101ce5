"""How the report looks: light, calm, from 320 px to a desk's screen, and on paper."""

CSS = """
:root{--ink:#22272e;--muted:#5f6872;--line:#dfe3e7;--soft:#f5f7f8;--blue:#2f6f8f;--red:#b3403a;
--green:#3d7a46;--amber:#8a5a00}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:#fff;color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main,header{max-width:1120px;margin:0 auto;padding:0 20px}
header{padding-top:28px}
h1{font-size:1.6rem;line-height:1.25;margin:0 0 4px;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:44px 0 10px;padding-top:10px;border-top:1px solid var(--line)}
h3{font-size:.95rem;margin:0 0 6px}
h4{font-size:.9rem;margin:16px 0 6px;color:var(--muted);font-weight:600}
p{margin:6px 0;max-width:75ch}
.sub,figcaption,.note{color:var(--muted);font-size:.9rem}
.sub{overflow-wrap:anywhere;max-width:none}
nav{margin:14px 0 0;font-size:.9rem;display:flex;flex-wrap:wrap;gap:4px 16px}
a{color:var(--blue)}
.warn{border-left:4px solid var(--red);background:#fdf3f2;padding:8px 14px;margin:16px 0}
.warn p{margin:2px 0;max-width:none;overflow-wrap:anywhere}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(230px,1fr));gap:10px;
margin:18px 0}
.card{border:1px solid var(--line);border-radius:6px;padding:10px 12px}
.card b{display:block;font-size:1.55rem;line-height:1.2;font-weight:600;
font-variant-numeric:tabular-nums}
.card span{display:block;font-size:.82rem;color:var(--muted);font-variant-numeric:tabular-nums}
.card .name{color:var(--ink);font-weight:600;font-size:.88rem}
h3:not(figure>h3){margin-top:24px}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));
gap:26px 30px;align-items:start}
figure{margin:0;min-width:0}
figure img{display:block;width:100%;max-width:560px;height:auto}
figcaption{margin-top:4px}
.scroll{overflow-x:auto;max-width:100%}
figure .scroll img{min-width:430px}
table{border-collapse:collapse;font-size:.88rem;font-variant-numeric:tabular-nums;margin:8px 0}
caption{text-align:left;color:var(--muted);font-size:.88rem;padding-bottom:4px}
th,td{padding:3px 10px;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600;border-bottom-color:var(--muted);white-space:nowrap}
.n{text-align:right;white-space:nowrap}
.t{text-align:left;overflow-wrap:anywhere;min-width:7em}
.n:first-child,.t:first-child{padding-left:0}
details{border-bottom:1px solid var(--line);padding:6px 0}
summary{cursor:pointer;padding:4px 0;font-weight:600;overflow-wrap:anywhere}
summary small{font-weight:400;color:var(--muted);margin-left:8px}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(200px,1fr));gap:12px}
.tile{margin:0;font-size:.8rem;line-height:1.35;min-width:0}
.tile img{display:block;width:100%;height:auto;border-radius:3px;background:var(--soft)}
.tile .id{color:var(--muted);overflow-wrap:anywhere;display:block}
.tile strong{font-variant-numeric:tabular-nums}
.ok{color:var(--green)}
.bad{color:var(--red)}
code,pre{font:.82rem/1.45 ui-monospace,SFMono-Regular,Menlo,"DejaVu Sans Mono",monospace}
pre{background:var(--soft);padding:10px 12px;overflow-x:auto;border-radius:4px}
code{overflow-wrap:anywhere}
footer{max-width:1120px;margin:40px auto;padding:0 20px;color:var(--muted);font-size:.85rem}
@media (max-width:560px){
body{font-size:15px}
main,header,footer{padding-left:14px;padding-right:14px}
h1{font-size:1.3rem}
.cards{grid-template-columns:repeat(2,1fr);gap:8px}
.card{padding:8px 10px}
.card b{font-size:1.3rem}
.tiles{grid-template-columns:repeat(2,1fr);gap:10px}
th,td{padding:3px 7px}
}
@media print{nav{display:none}figure,.card,.tile{break-inside:avoid}}
"""

"""The style sheet of the report's page; light or dark as the reader's system is."""

STYLE = """
:root { color-scheme: light dark; --ground: #ffffff; --ink: #1b1f24; --soft: #5c6570; --line: #d9dee4; --card: #f5f7f9; --accent: #2b6cb0; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #14171b; --ink: #e6e9ed; --soft: #9aa4af; --line: #333a42; --card: #1c2026; --accent: #7db3ec; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.55 system-ui, "Segoe UI", Helvetica, Arial, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 2.2rem 1.4rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .5rem; padding-top: .9rem; border-top: 1px solid var(--line); }
p { margin: .4rem 0 .8rem; max-width: 80ch; }
.kind { color: var(--accent); font-size: .8rem; font-weight: 600; letter-spacing: .06em; text-transform: uppercase; margin: 0 0 .3rem; }
.soft, figcaption, caption { color: var(--soft); font-size: .88rem; }
.notice { border-left: 4px solid var(--accent); background: var(--card); padding: .7rem 1rem; border-radius: 0 6px 6px 0; max-width: 84ch; }
dl { display: flex; flex-wrap: wrap; gap: .7rem; margin: 1.2rem 0; }
dl div { flex: 1 1 215px; padding: .55rem .8rem; background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
dd { overflow-wrap: anywhere; }
dt { color: var(--soft); font-size: .78rem; }
dd { margin: 0; font-weight: 600; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .88rem; margin: .6rem 0 .4rem; }
th, td { padding: .34rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 600; vertical-align: bottom; white-space: normal; min-width: 4.2rem; }
th.text, td.text { text-align: left; }
td.text { white-space: normal; min-width: 6.5rem; }
td.text:first-child { white-space: nowrap; }
tbody tr:hover { background: var(--card); }
figure { margin: 1rem 0; }
svg { width: 100%; height: auto; display: block; color: var(--ink); stroke-linejoin: round; }
h3 { font-size: .95rem; margin: 1rem 0 .4rem; font-weight: 600; overflow-wrap: anywhere; }
h3 span { color: var(--soft); font-weight: 400; }
.slices { display: flex; gap: .5rem; max-width: 1000px; }
.slices > div { flex: 1 1 0; min-width: 0; color: var(--soft); font-size: .82rem; }
.slices img { width: 100%; display: block; border-radius: 5px; background: #000; object-fit: fill; image-rendering: pixelated; }
.keys { display: flex; flex-wrap: wrap; gap: .4rem 1.2rem; margin: .8rem 0; font-size: .85rem; color: var(--soft); align-items: center; }
.dot { display: inline-block; width: .8em; height: .8em; border-radius: 50%; margin-right: .4em; }
.bar { display: inline-block; width: 90px; height: .75em; border-radius: 3px; margin: 0 .4em; }
details { margin: .6rem 0; }
summary { cursor: pointer; color: var(--accent); }
footer { margin-top: 3rem; color: var(--soft); font-size: .82rem; border-top: 1px solid var(--line); padding-top: .8rem; }
@media print { main { max-width: none; padding: 0; } details[open] summary { display: none; } }
"""

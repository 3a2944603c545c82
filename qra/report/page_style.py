"""Style sheet of the report's page: light and dark, for phones and for print."""

STYLE = """
:root { color-scheme: light dark; --text: #1b1b1b; --faint: #5c5c5c; --rule: #d0d0d0; --page: #ffffff; --band: #f4f4f2;
  --shade: rgba(0, 0, 0, .25); --warn: #fff1d6; --warn-rule: #b56a00;
  --supported: #00664d; --contradicted: #a83e00; --undecided: #5c5c5c; }
@media (prefers-color-scheme: dark) { :root { --text: #e8e8e6; --faint: #a8a8a5; --rule: #444444; --page: #171717;
  --band: #222222; --shade: rgba(255, 255, 255, .3); --warn: #3a2a08; --warn-rule: #e0a030;
  --supported: #4cc9a4; --contradicted: #ff9d5c; --undecided: #b5b5b2; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 68rem; padding: 2rem 1.25rem 4rem; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, "Segoe UI", "Helvetica Neue", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .5rem; line-height: 1.2; }
h2 { font-size: 1.25rem; margin: 2.75rem 0 .75rem; border-bottom: 1px solid var(--rule); padding-bottom: .25rem; }
h3 { font-size: 1rem; margin: 1.75rem 0 .4rem; }
p, .summary ul { max-width: 50rem; margin: .5rem 0; }
.faint, figcaption { color: var(--faint); font-size: .875rem; }
figcaption { max-width: 46rem; margin-top: .4rem; }
nav { margin: 1.5rem 0 .5rem; }
nav a { margin-right: 1rem; }
a { color: inherit; }
.facts { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: .5rem 0; font-size: .875rem; }
.facts dt { color: var(--faint); }
.facts dd { margin: 0; overflow-wrap: anywhere; }
.band { background: var(--warn); border-left: .3rem solid var(--warn-rule); padding: .5rem .9rem; font-weight: 600; }
.summary { margin: 1.25rem 0; }
.summary ul { padding-left: 1.2rem; }
.question { font-size: 1.1rem; font-weight: 600; }
.wide { overflow-x: auto; margin: .75rem 0; background:
  linear-gradient(to right, var(--page) 30%, transparent) left / 3rem 100%,
  linear-gradient(to left, var(--page) 30%, transparent) right / 3rem 100%,
  linear-gradient(to right, var(--shade), transparent) left / .8rem 100%,
  linear-gradient(to left, var(--shade), transparent) right / .8rem 100%;
  background-repeat: no-repeat; background-attachment: local, local, scroll, scroll; }
table { border-collapse: collapse; font-size: .8125rem; line-height: 1.35; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--rule); }
th { font-weight: 600; border-bottom: 2px solid var(--rule); }
td.number, th.number { text-align: right; }
td.number { white-space: nowrap; }
th { min-width: 4.5rem; }
.claim th:nth-child(3), .claim th:last-child { min-width: 15rem; }
.wide > table > thead th:first-child { min-width: 11rem; }
.claim { border-left: .3rem solid var(--undecided); padding: .1rem 0 .1rem .9rem; margin: .9rem 0; }
.claim p { margin: .15rem 0; }
.claim.supported { border-color: var(--supported); } .claim.contradicted { border-color: var(--contradicted); }
.verdict { font-weight: 700; color: var(--undecided); }
.supported .verdict { color: var(--supported); } .contradicted .verdict { color: var(--contradicted); }
figure { margin: 1.25rem 0 2rem; }
figure img { display: block; max-width: 100%; height: auto; background: #ffffff; padding: .5rem; border-radius: .3rem; }
summary { cursor: pointer; font-weight: 600; margin: 1rem 0 .5rem; }
summary.faint { font-weight: 400; margin: .3rem 0; }
@media (max-width: 40rem) {
  body { padding: 1rem .75rem 3rem; } h1 { font-size: 1.35rem; } .facts { gap: .1rem .6rem; }
  th, td { padding: .3rem .4rem; } th, .wide > table > thead th:first-child { min-width: 7rem; }
  th.number { min-width: 0; }
  .number .interval { display: block; color: var(--faint); font-size: .6875rem; }
  figure img { max-width: none; width: 44rem; } }
@page { size: A4 landscape; margin: 12mm; }
@media print { :root { --text: #000; --faint: #333; --rule: #999; --page: #fff; --band: #eee; --supported: #00664d;
  --contradicted: #a83e00; --undecided: #333; --warn: #fff; } body { max-width: none; padding: 0; font-size: 10pt; }
  nav { display: none; } figure, .claim, tr { break-inside: avoid; } h2, h3 { break-after: avoid; }
  .wide { overflow: visible; background: none; } table { font-size: 7pt; } th, td { padding: .15rem .3rem; }
  figure img { max-height: 145mm; }
  details:not(#appendix ~ details)::details-content { content-visibility: visible; block-size: auto; }
  td.number { white-space: normal; } th, th:nth-child(3), .claim th:last-child,
  .wide > table > thead th:first-child { min-width: 0; } }
"""

if (matchMedia("(max-width: 760px)").matches)
  for (const details of document.querySelectorAll("details.long")) if (details.querySelectorAll("tr").length > 8) details.open = false;
for (const table of document.querySelectorAll("table.cards")) {
  const headings = [...table.querySelectorAll("thead th")].map((heading) => heading.textContent);
  for (const row of table.querySelectorAll("tr")) [...row.children].forEach((cell, i) => { cell.dataset.label = headings[i] || ""; });
}

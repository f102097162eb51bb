// A click on a column's name sorts the table by it; again turns the order. Without scripts, the page reads as it is.
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  if (!body || body.rows.length < 3) continue;
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const descending = head.getAttribute("aria-sort") !== "descending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const key = (row) => {
        const text = row.cells[column].textContent.replace(/[★≈\s]+/g, " ").replace(/−/g, "-").trim();
        const number = parseFloat(text.replace(/,/g, ""));
        return Number.isNaN(number) ? text.toLowerCase() : number;
      };
      const order = (a, b) => {
        const [x, y] = [key(a), key(b)];
        if (typeof x !== typeof y) return typeof x === "number" ? -1 : 1;  // Dashes stay below.
        return (x < y ? -1 : x > y ? 1 : 0) * (descending ? -1 : 1);
      };
      body.append(...[...body.rows].sort(order));
    });
  });
}

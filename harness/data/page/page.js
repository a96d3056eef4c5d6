"use strict";

for (const table of document.querySelectorAll("table[data-sortable]")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  const value = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") === "descending";
      const numbers = [...body.rows].every((row) => value(row, column) === "" || isFinite(value(row, column)));
      const compare = (a, b) => (numbers ? a - b : a.localeCompare(b, "en"));
      const rows = [...body.rows].sort((one, other) => {
        const [a, b] = [value(one, column), value(other, column)];
        if (a === "" || b === "") return (a === "") - (b === "");
        return up ? compare(a, b) : compare(b, a);
      });
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      body.append(...rows);
    });
  });
}

for (const [place, box] of document.querySelectorAll("[data-meters]").entries()) {
  const parts = [...box.querySelectorAll(":scope > [data-meter]")];
  if (parts.length < 2) continue;
  const choice = document.createElement("fieldset");
  const legend = document.createElement("legend");
  legend.textContent = "Score against";
  choice.append(legend);
  const show = (chosen) => {
    for (const part of parts) {
      part.hidden = part !== chosen;
      if (part.tagName === "DETAILS") part.open = true;
    }
  };
  parts.forEach((part, number) => {
    const label = document.createElement("label");
    const radio = document.createElement("input");
    radio.type = "radio";
    radio.name = `meter-${place}`;
    radio.checked = number === 0;
    radio.addEventListener("change", () => show(part));
    label.append(radio, " ", part.dataset.meter);
    choice.append(label);
  });
  box.classList.add("switched");
  box.prepend(choice);
  show(parts[0]);
}

addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details:not([open])")) {
    part.dataset.closed = "";
    part.open = true;
  }
});
addEventListener("afterprint", () => {
  for (const part of document.querySelectorAll("details[data-closed]")) {
    part.open = false;
    delete part.dataset.closed;
  }
});

const unfold = () => {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let part = target; part; part = part.parentElement?.closest("details")) {
    if (part.tagName === "DETAILS") part.open = true;
  }
  if (target) target.scrollIntoView();
};
addEventListener("hashchange", unfold);
unfold();

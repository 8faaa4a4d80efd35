"use strict";
(() => {
  const json = (element) => JSON.parse(element.textContent);

  // Tables: a click, Enter or the space bar on a column's name sorts by it, and again the other way.
  const key = (cell) => {
    const text = cell.dataset.v ?? cell.textContent.trim();
    const value = Number(text) === 0 && text === "" ? NaN : parseFloat(text);
    return /^[-+.\d]/.test(text) && !Number.isNaN(value) ? value : text;
  };
  const order = (a, b) =>
    typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
  for (const head of document.querySelectorAll("th")) {
    head.firstElementChild.addEventListener("click", () => {
      const body = head.closest("table").tBodies[0];
      const rising = head.getAttribute("aria-sort") !== "ascending";
      for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", rising ? "ascending" : "descending");
      const rows = [...body.rows].map((row) => [key(row.cells[head.cellIndex]), row]);
      const empty = (value) => value === "" || value === "-" || value === "nan";
      rows.sort(([a], [b]) => {
        // What has no value stands last, whichever way.
        if (empty(a) || empty(b)) return empty(a) - empty(b);
        return rising ? order(a, b) : order(b, a);
      });
      body.append(...rows.map(([, row]) => row));
    });
  }

  // Figures: the mark nearest to the pointer, or chosen by the arrow keys, says what it is.
  const marksOf = (figure) => {
    const data = json(figure.querySelector(".data"));
    if (data.marks) return data.marks;
    const names = json(document.getElementById(`names-${data.names}`));
    const [a, b] = data.labels;
    return data.at.map(([x, y], k) =>
      [x, y, `${names[k]}: ${a} ${data.x[k]}, ${b} ${data.y[k]}`]);
  };
  for (const figure of document.querySelectorAll("figure")) {
    const svg = figure.querySelector("svg"), readout = figure.querySelector(".readout");
    let marks = null, ring = null, chosen = -1;
    const choose = (place) => {
      marks ??= marksOf(figure);
      if (!marks.length) return;
      chosen = (place + marks.length) % marks.length;
      const [x, y, words] = marks[chosen];
      if (!ring) {
        ring = document.createElementNS(svg.namespaceURI, "circle");
        ring.setAttribute("class", "ring");
        ring.setAttribute("r", 7);
        svg.append(ring);
      }
      ring.setAttribute("cx", x);
      ring.setAttribute("cy", y);
      readout.textContent = words;
      readout.classList.add("on");
    };
    const nearest = (event) => {
      marks ??= marksOf(figure);
      const place = svg.getScreenCTM().inverse();
      const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(place);
      let best = -1, least = 40 ** 2;
      marks.forEach(([x, y], k) => {
        const far = (x - at.x) ** 2 + (y - at.y) ** 2;
        if (far < least) [best, least] = [k, far];
      });
      if (best >= 0 && best !== chosen) choose(best);
    };
    svg.addEventListener("pointermove", nearest);
    svg.addEventListener("pointerdown", nearest);
    svg.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (step) choose(chosen < 0 && step < 0 ? -1 : chosen + step);
      else if (event.key === "Home") choose(0);
      else if (event.key === "End") choose(-1);
      else return;
      event.preventDefault();
    });
    figure.querySelector("select")?.addEventListener("change", (event) => {
      const wanted = event.target.value;
      for (const path of svg.querySelectorAll("[data-s]")) {
        path.classList.toggle("dim", wanted !== "" && path.dataset.s !== wanted);
        path.classList.toggle("on", wanted !== "" && path.dataset.s === wanted);
      }
    });
  }

  // Sounds within the page.
  const sounds = document.getElementById("sounds");
  if (sounds) {
    const found = json(sounds);
    for (const player of document.querySelectorAll("audio[data-sound]")) {
      player.src = found[player.dataset.sound];
    }
  }
})();

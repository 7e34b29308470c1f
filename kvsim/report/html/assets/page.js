"use strict";
(() => {
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const hidden = new Set(); // series that the reader switched off, in all figures alike
  const drawn = new Map(); // plots by number, once plotly.js is there
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const lighter = {
    "#555555": "#b4bcc6", "#0173B2": "#56a9dc", "#029E73": "#2fc39a", "#D55E00": "#f0854a", "#5B2A6E": "#b98acb",
    "#DE8F05": "#eba93a", "#CA9161": "#d9a881", "#CC78BC": "#d997cb", "#949494": "#a9b1ba", "#ECE133": "#e8de45",
    "#08306B": "#6ea3e0", "#2171B5": "#4f9ddb",
  };
  let isPrinting = false;
  const isDark = () => dark.matches && !isPrinting;
  const shade = (color) => (isDark() && lighter[color]) || color;
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // --- tables: sorted by a button in each head, filtered by a field; of long ones a part at a time ---
  const PART = 100;
  const tables = new Map();
  for (const table of document.querySelectorAll("table")) {
    const rows = [...table.tBodies[0].rows].map((element, number) => ({
      number, element, cells: [...element.cells].map((cell) => [cell.textContent, cell.dataset.value ?? cell.textContent]),
    }));
    const tools = table.closest(".scroll").previousElementSibling;
    tables.set(table.id, { table, rows, shown: rows, first: 0, size: Infinity, tools: tools?.matches(".tools") ? tools : null });
  }
  function elementOf(one, row) {
    if (row.element) return row.element;
    row.element = document.createElement("tr");
    const heads = one.table.tHead.rows[0].cells;
    row.element.append(...row.cells.map(([text, value], column) => {
      const cell = document.createElement("td");
      cell.textContent = text;
      if (value !== text) cell.dataset.value = value;
      if (heads[column].className === "text") cell.className = "text";
      return cell;
    }));
    return row.element;
  }
  function show(one) {
    one.first = Math.max(0, Math.min(one.first, Math.ceil(one.shown.length / one.size - 1) * one.size || 0));
    const part = one.shown.slice(one.first, one.first + one.size);
    one.table.tBodies[0].replaceChildren(...part.map((row) => elementOf(one, row)));
    if (!one.tools) return;
    const isFiltered = one.shown.length < one.rows.length;
    const count = (number) => number.toLocaleString("en");
    const ofAll = isFiltered ? `${count(one.shown.length)} of ${count(one.rows.length)} rows` : `${count(one.rows.length)} rows`;
    const isPart = part.length < one.shown.length;
    one.tools.querySelector("output").textContent =
      isPart ? `${count(one.first + 1)} to ${count(one.first + part.length)} of ${ofAll}` : isFiltered ? ofAll : "";
    for (const button of one.tools.querySelectorAll("[data-turns]")) {
      const next = one.first + Number(button.dataset.by);
      button.setAttribute("aria-disabled", String(next < 0 || next >= one.shown.length)); // keeps the focus
    }
  }
  function arrange(one) {
    const words = (one.tools?.querySelector("input").value ?? "").toLowerCase().split(/\s+/).filter(Boolean);
    one.shown = one.rows.filter((row) => {
      const text = words.length ? row.cells.map(([shown]) => shown).join(" ").toLowerCase() : "";
      return words.every((word) => text.includes(word));
    });
    const head = one.table.querySelector("th[aria-sort]");
    if (head) one.shown.sort(orderBy(head.cellIndex, head.getAttribute("aria-sort") === "descending"));
    show(one);
  }
  const orderBy = (column, isDown) => (a, b) => {
    const x = a.cells[column][1], y = b.cells[column][1];
    const isEmpty = [x, y].map((value) => ["", "-"].includes(value)); // last, whichever way it is sorted
    if (isEmpty[0] || isEmpty[1]) return isEmpty[0] - isEmpty[1] || a.number - b.number;
    const order = Number.isNaN(Number(x)) || Number.isNaN(Number(y)) ? x.localeCompare(y) : x - y;
    return (isDown ? -order : order) || a.number - b.number;
  };
  for (const button of document.querySelectorAll("th button")) {
    button.addEventListener("click", () => {
      const head = button.parentNode, isDown = head.getAttribute("aria-sort") === "ascending";
      for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", isDown ? "descending" : "ascending");
      arrange(tables.get(head.closest("table").id));
    });
  }
  for (const field of document.querySelectorAll("input[data-filters]")) {
    field.addEventListener("input", () => arrange(tables.get(field.dataset.filters)));
  }
  for (const button of document.querySelectorAll("[data-turns]")) {
    button.addEventListener("click", () => {
      const one = tables.get(button.dataset.turns);
      one.first += Number(button.dataset.by);
      one.table.closest(".scroll").scrollTop = 0;
      show(one);
    });
  }
  async function unpackRows() {
    for (const one of tables.values()) {
      const packed = document.getElementById(`${one.table.id}-all`);
      if (!packed) continue;
      const columns = JSON.parse(await unpacked(packed));
      one.rows = columns[0].texts.map((_, number) => ({
        number, cells: columns.map(({ texts, values }) => [texts[number], values[number] ?? texts[number]]),
      }));
      one.size = PART;
      arrange(one);
    }
  }

  // --- figures ---
  const chosen = (number) => {
    const select = document.querySelector(`select[data-chart="${number}"]`);
    return charts[number].views[select ? select.value : 0];
  };
  const colorOf = (trace) => (trace.line && trace.line.color) || (trace.marker && trace.marker.color) || trace.fillcolor;
  function themed(trace) {
    const copy = structuredClone(trace);
    copy.visible = !hidden.has(trace.meta.series);
    for (const part of [copy.line, copy.marker]) if (part && part.color) part.color = shade(part.color);
    if (copy.fillcolor) copy.fillcolor = shade(copy.fillcolor);
    copy.showlegend = false;
    return copy;
  }
  function layoutOf(view, chart) {
    const ink = isPrinting ? "#000" : css("--ink"), line = isPrinting ? "#ccc" : css("--line");
    const axis = (own) => ({
      gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true, tickfont: { size: 12.5 }, ...own,
      title: { ...(own && own.title), font: { size: 13 }, standoff: 10 },
    });
    return {
      hovermode: "x unified", ...view.layout, xaxis: axis(view.layout.xaxis), yaxis: axis(view.layout.yaxis),
      height: isPrinting ? Math.min(chart.height, 290) : chart.height, margin: { l: 60, r: 20, t: 12, b: 52 }, showlegend: false,
      font: { family: getComputedStyle(document.body).fontFamily, color: ink, size: 13 },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      hoverlabel: { bgcolor: isDark() ? "#242a31" : "#fff", bordercolor: line, font: { color: ink, size: 13 } },
      ...(isPrinting ? { width: 640 } : {}),
    };
  }
  const options = { responsive: true, displayModeBar: false, doubleClick: "reset" };
  function draw(number) {
    const place = document.querySelector(`[data-plot="${number}"]`), view = chosen(number);
    if (!place || !window.Plotly) return;
    place.style.height = `${isPrinting ? Math.min(charts[number].height, 290) : charts[number].height}px`;
    window.Plotly.react(place, view.traces.map(themed), layoutOf(view, charts[number]), options);
    drawn.set(number, place);
  }
  function legend(number) {
    const box = document.querySelector(`[data-legend="${number}"]`);
    if (!box) return;
    const series = new Map();
    for (const trace of chosen(number).traces) if (!series.has(trace.meta.series) || trace.type === "bar") series.set(trace.meta.series, trace);
    box.replaceChildren(...[...series].map(([name, trace]) => {
      const button = document.createElement("button"), swatch = document.createElement("i");
      button.type = "button";
      button.setAttribute("aria-pressed", String(!hidden.has(name)));
      button.dataset.series = name;
      swatch.style.color = swatch.style.borderColor = shade(colorOf(trace));
      swatch.className = trace.type === "bar" ? "bar" : "";
      if (trace.line && trace.line.dash && trace.line.dash !== "solid") swatch.style.borderTopStyle = trace.line.dash === "dot" ? "dotted" : "dashed";
      button.append(swatch, document.createTextNode(name));
      button.addEventListener("click", () => toggle(name, number));
      return button;
    }));
    box.hidden = series.size < 2 && ![...series.keys()].some((name) => hidden.has(name));
  }
  function refresh() { charts.forEach((_, number) => { legend(number); draw(number); }); }
  function toggle(name, from) {
    hidden.has(name) ? hidden.delete(name) : hidden.add(name);
    refresh();
    for (const button of document.querySelectorAll(`[data-legend="${from}"] button`)) {
      if (button.dataset.series === name) button.focus();
    }
  }
  for (const select of document.querySelectorAll("select[data-chart]")) {
    const number = Number(select.dataset.chart);
    select.addEventListener("change", () => { legend(number); draw(number); });
  }
  // Arrow keys move the hover from point to point of a figure that has the focus.
  for (const place of document.querySelectorAll("[data-plot]")) {
    let point = -1;
    place.addEventListener("keydown", (event) => {
      const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!move || !place.data) return;
      event.preventDefault();
      const shown = place.data.map((trace, curve) => [trace, curve]).filter(([trace]) => trace.visible && trace.hoverinfo !== "skip");
      if (!shown.length) return;
      const size = Math.max(...shown.map(([trace]) => trace.x.length));
      point = (point + move + size) % size;
      window.Plotly.Fx.hover(place, shown.filter(([trace]) => point < trace.x.length).map(([, curve]) => ({ curveNumber: curve, pointNumber: point })));
    });
    place.addEventListener("blur", () => place.data && window.Plotly.Fx.unhover(place));
  }
  async function unpacked(element) {
    const packed = Uint8Array.from(atob(element.textContent.trim()), (c) => c.charCodeAt(0));
    return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  }
  async function unpack() {
    await unpackRows();
    const script = document.createElement("script");
    script.textContent = await unpacked(document.getElementById("library"));
    document.head.append(script);
    refresh();
    document.documentElement.dataset.ready = "yes";
  }
  dark.addEventListener("change", refresh);
  addEventListener("beforeprint", () => {
    isPrinting = true;
    refresh();
  });
  addEventListener("afterprint", () => { isPrinting = false; refresh(); });
  charts.forEach((_, number) => legend(number));
  unpack().catch((problem) => {
    for (const place of document.querySelectorAll("[data-plot]")) {
      place.textContent = "This browser cannot draw the figure (it lacks DecompressionStream): use one of 2023 or later.";
      place.style.height = "auto";
    }
    console.warn(String(problem));
  });
})();

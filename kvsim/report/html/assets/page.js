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

  // --- tables: sorted by a button in each head, filtered by a field ---
  const valueOf = (cell) => cell.dataset.value ?? cell.textContent;
  function compare(a, b) {
    const isEmptyA = a === "" || a === "-", isEmptyB = b === "" || b === "-";
    if (isEmptyA || isEmptyB) return null; // last, whichever way it is sorted
    const x = Number(a), y = Number(b);
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
  }
  function sort(head) {
    const table = head.closest("table"), body = table.tBodies[0];
    const column = [...head.parentNode.children].indexOf(head);
    const isDown = head.getAttribute("aria-sort") === "ascending";
    for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", isDown ? "descending" : "ascending");
    const isEmpty = (row) => ["", "-"].includes(valueOf(row.cells[column]));
    const rows = [...body.rows].sort((a, b) => {
      const order = compare(valueOf(a.cells[column]), valueOf(b.cells[column]));
      if (order === null) return isEmpty(a) - isEmpty(b);
      return (isDown ? -order : order) || a.dataset.row - b.dataset.row;
    });
    body.append(...rows);
  }
  for (const button of document.querySelectorAll("th button")) {
    button.addEventListener("click", () => sort(button.parentNode));
  }
  for (const field of document.querySelectorAll("input[data-filters]")) {
    const table = document.getElementById(field.dataset.filters);
    const output = field.closest(".tools").querySelector("output");
    field.addEventListener("input", () => {
      const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
      const rows = [...table.tBodies[0].rows];
      for (const row of rows) {
        const text = [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
      }
      const shown = rows.filter((row) => !row.hidden).length;
      output.textContent = words.length ? `${shown} of ${rows.length} rows` : "";
    });
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
  async function unpack() {
    const packed = Uint8Array.from(atob(document.getElementById("library").textContent.trim()), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
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

"use strict";
(() => {
  const every = (selector, root = document) => [...root.querySelectorAll(selector)];
  const one = (selector, root = document) => root.querySelector(selector);
  const charts = JSON.parse(one("#charts").textContent);
  const root = document.documentElement;
  const INK = { paper_bgcolor: "#fff", plot_bgcolor: "#fff", font: { color: "#1f2328" } };  // of a saved picture
  const PAPER = { width: 620, height: 300 };  // of a chart in print, in CSS pixels: page.css has the width too
  const touch = matchMedia("(hover: none), (pointer: coarse)").matches;

  // The reader's choices are kept when the page reloads itself; a page opened from a file may have no storage.
  const memory = {
    get(key) { try { return JSON.parse(sessionStorage.getItem("iql " + key)); } catch { return null; } },
    set(key, value) { try { sessionStorage.setItem("iql " + key, JSON.stringify(value)); } catch { /* as above */ } },
  };

  // Colours: light, dark, or as the system is set.
  const themes = ["system", "light", "dark"];
  const system = matchMedia("(prefers-color-scheme: dark)");
  let theme = themes.includes(memory.get("theme")) ? memory.get("theme") : "system";
  function applyTheme() {
    root.dataset.theme = theme === "system" ? (system.matches ? "dark" : "light") : theme;
    const button = one("#theme");
    one("span", button).textContent = theme;
    button.setAttribute("aria-label", "Colours: " + (theme === "system" ? "as the system" : theme));
    every(".chart.js-plotly-plot").forEach((node) => Plotly.relayout(node, colours()));
  }
  one("#theme").addEventListener("click", () => {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length];
    memory.set("theme", theme);
    applyTheme();
  });
  system.addEventListener("change", applyTheme);

  function colours() {
    const style = getComputedStyle(root);
    const [ink, line, card] = ["--ink", "--line", "--card"].map((name) => style.getPropertyValue(name).trim());
    const axis = { gridcolor: line, linecolor: line, zerolinecolor: line };
    const flat = {};
    for (const name of ["xaxis", "yaxis"]) for (const key of Object.keys(axis)) flat[`${name}.${key}`] = axis[key];
    return {
      ...flat, "font.color": ink, "hoverlabel.bgcolor": card, "hoverlabel.font.color": ink, "hoverlabel.bordercolor": line,
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    };
  }

  // Filters: which tasks and configurations are shown. On a phone they would hide the results.
  if (matchMedia("(max-width: 40rem)").matches) one(".filters details").open = false;
  const boxes = (name) => every(`[data-filter="${name}"] input`);
  const chosen = (name) => new Set(boxes(name).filter((box) => box.checked).map((box) => box.value));
  for (const name of ["task", "configuration"]) {
    const before = memory.get(name);
    if (before) boxes(name).forEach((box) => { if (box.value in before) box.checked = before[box.value]; });
  }
  function filter() {
    const shown = { task: chosen("task"), configuration: chosen("configuration") };
    for (const name of ["task", "configuration"]) {
      memory.set(name, Object.fromEntries(boxes(name).map((box) => [box.value, box.checked])));
    }
    const passes = (node) => ["task", "configuration"].every((name) => !node.dataset[name] || shown[name].has(node.dataset[name]));
    every("#results [data-task], #results [data-configuration], #maps figure").forEach((node) => { node.hidden = !passes(node); });
    const diagnosed = one("#diagnosed") ? one("#diagnosed").value : "";
    every(".charts[data-section] > figure").forEach((figure) => {
      const own = figure.closest("[data-section]").dataset.section === "diagnostics";
      figure.hidden = own ? figure.dataset.task !== diagnosed : !passes(figure);
      every(".legend li[data-of]", figure).forEach((item) => { item.hidden = !shown.configuration.has(item.dataset.of); });
      const plot = one(".js-plotly-plot", figure);
      if (plot) showTraces(plot, shown.configuration);
    });
    filterRuns(passes);
    const count = (name) => `${shown[name].size} of ${boxes(name).length}`;
    one("#filtered").textContent = `(${count("task")} tasks, ${count("configuration")} configurations)`;
  }
  const visible = (trace, configurations) => !trace.meta || configurations.has(trace.meta);
  function showTraces(plot, configurations) {
    const now = plot.data.map((trace) => visible(trace, configurations));
    if (now.some((value, index) => value !== (plot.data[index].visible !== false))) {
      Plotly.restyle(plot, { visible: now });
    }
  }
  every("[data-filter] input").forEach((box) => box.addEventListener("change", filter));
  every("[data-all]").forEach((button) => button.addEventListener("click", () => {
    const most = Number(button.dataset.all);  // a number: so many; else true or false
    every("input", button.closest("fieldset")).forEach((box, index) => {
      box.checked = most ? index < most : button.dataset.all === "true";
    });
    filter();
  }));

  // Runs are also filtered by a text search and by state.
  function filterRuns(passes) {
    const terms = one("#search").value.toLowerCase().split(/\s+/);
    const state = one("#state").value;
    let count = 0;
    const rows = every("#runs tbody tr");
    rows.forEach((row) => {
      const text = row.textContent.toLowerCase();
      row.hidden = !passes(row) || (state !== "" && row.dataset.state !== state) || !terms.every((term) => text.includes(term));
      count += !row.hidden;
    });
    one("#counted").textContent = `${count} of ${rows.length} runs`;
  }
  one("#search").addEventListener("input", filter);
  one("#state").addEventListener("change", filter);

  // A table is sorted by the column whose header is clicked.
  every("table.sortable thead button").forEach((button) => button.addEventListener("click", () => {
    const head = button.closest("th");
    const body = one("tbody", head.closest("table"));
    const column = head.cellIndex;
    const up = head.getAttribute("aria-sort") !== "ascending";
    every("th", head.parentNode).forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const text = (row) => row.cells[column].textContent.trim();
    const number = (row) => parseFloat(text(row).replace(/[[,]/g, (sign) => (sign === "[" ? "" : "")));
    const numeric = every("tr", body).every((row) => text(row) === "" || !Number.isNaN(number(row)));
    const compare = (a, b) => {
      if (text(a) === "" || text(b) === "") return (text(a) === "") - (text(b) === "");  // the empty last
      const order = numeric ? number(a) - number(b) : text(a).localeCompare(text(b), undefined, { numeric: true });
      return up ? order : -order;
    };
    body.append(...every("tr", body).sort(compare));
  }));

  // A chart is drawn when it is scrolled near the visible part of the page.
  function card(chart, index) {
    const figure = document.createElement("figure");
    figure.dataset.task = chart.task;
    const caption = document.createElement("figcaption");
    caption.textContent = chart.title;
    caption.id = `chart-${index}`;
    const plot = document.createElement("div");
    plot.className = "chart";
    plot.tabIndex = 0;
    plot.setAttribute("role", "group");
    plot.setAttribute("aria-roledescription", "chart");
    plot.setAttribute("aria-label", chart.alternative);
    figure.append(caption, plot, legend(chart), ...key(chart), tools(chart, plot), asTable(chart));
    plot.addEventListener("keydown", (event) => move(event, plot));
    plot.chart = chart;
    near.observe(plot);
    return figure;
  }
  const near = new IntersectionObserver((entries) => entries.forEach((entry) => {
    if (!entry.isIntersecting) return;
    near.unobserve(entry.target);
    draw(entry.target);
  }), { rootMargin: "600px" });

  // Plotly is the largest part of the page: it is run with the first chart, after the tables are shown.
  function loadPlotly() {
    if (window.Plotly) return;
    document.head.append(Object.assign(document.createElement("script"), { textContent: one("#plotly").textContent }));
  }
  function draw(plot) {
    if (plot.dataset.drawn) return;
    loadPlotly();
    const configurations = chosen("configuration");
    const { data, layout } = plot.chart;
    const traces = data.map((trace) => ({ ...literal(trace), visible: visible(trace, configurations) }));
    const axis = { automargin: true, zeroline: false };
    Plotly.newPlot(plot, traces, {
      xaxis: { ...axis, ...literal(layout.xaxis) },
      yaxis: { ...axis, ...literal(layout.yaxis) },
      margin: { l: 56, r: 12, t: 8, b: 40 },
      font: { family: "system-ui, sans-serif", size: 12 },
      showlegend: false,
      hovermode: data.some((trace) => trace.type === "heatmap") ? "closest" : "x",
      dragmode: touch ? false : "zoom",  // a finger scrolls the page
    }, { responsive: true, displayModeBar: false })
      .then(() => Plotly.relayout(plot, colours()))
      .then(() => { plot.dataset.drawn = "true"; });
  }
  // Plotly's own legend cuts off long names; this one wraps them.
  const named = (chart) => chart.data.filter((trace) => trace.showlegend !== false && trace.type === "scatter");
  function legend(chart) {
    const list = document.createElement("ul");
    list.className = "legend";
    for (const trace of named(chart).length > 1 ? named(chart) : []) {
      const item = document.createElement("li");
      if (trace.meta) item.dataset.of = trace.meta;
      item.append(swatch(trace), trace.name);
      list.append(item);
    }
    return list;
  }
  const DASHES = { dash: "6 3", dot: "2 2", dashdot: "6 2 2 2" };
  function swatch(trace) {
    const draw = (name, attributes) => {
      const node = document.createElementNS("http://www.w3.org/2000/svg", name);
      Object.entries(attributes).forEach(([key, value]) => node.setAttribute(key, value));
      return node;
    };
    const picture = draw("svg", { class: "swatch", viewBox: "0 0 24 4", "aria-hidden": "true" });
    const colour = (trace.line ?? trace.marker).color;
    picture.append(trace.line
      ? draw("line", { x2: 24, y1: 2, y2: 2, stroke: colour, "stroke-dasharray": DASHES[trace.line.dash] ?? "" })
      : draw("circle", { cx: 12, cy: 2, r: 4, fill: colour }));
    return picture;
  }
  // The names that a chart with long names replaces by numbers on its axes.
  function key(chart) {
    if (!chart.key.length) return [];
    const list = document.createElement("ol");
    list.className = "key";
    list.append(...chart.key.map((name) => Object.assign(document.createElement("li"), { textContent: name })));
    return [list];
  }

  // Plotly interprets some texts as HTML; they are escaped, so that names are shown as they are written.
  const TEXTS = ["name", "x", "y", "text", "customdata", "ticktext", "categoryarray"];
  const escaped = (value) => (Array.isArray(value) ? value.map(escaped)
    : typeof value === "string" ? value.replace(/&/g, "&amp;").replace(/</g, "&lt;") : value);
  function literal(node) {
    const own = TEXTS.filter((key) => key in node).map((key) => [key, escaped(node[key])]);
    return { ...node, ...Object.fromEntries(own) };
  }

  // Without a mouse, Plotly's own buttons would cover the chart; these are below it.
  function tools(chart, plot) {
    const line = document.createElement("p");
    line.className = "tools";
    const add = (text, what, action) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = text;
      button.setAttribute("aria-label", `${what}: ${chart.title}`);
      button.addEventListener("click", action);
      line.append(button);
      return button;
    };
    add("+", "zoom in", () => zoom(plot, 0.7));
    add("−", "zoom out", () => zoom(plot, 1 / 0.7));
    add("all", "show all", () => showAll(plot));
    add("PNG", "save as a picture", () => {
      const filename = chart.title.replace(/[^\p{L}\p{N}.=-]+/gu, "_");
      const layout = { ...plot.layout, ...INK, showlegend: named(chart).length > 1, title: { text: escaped(chart.title) } };
      const picture = { data: plot.data, layout: { ...layout, margin: { l: 70, r: 20, t: 60, b: 60 } } };
      Plotly.downloadImage(picture, { format: "png", scale: 2, width: 800, height: 500, filename });
    });
    const lines = chart.data.some((trace) => String(trace.mode).includes("lines"));
    for (const axis of lines ? ["xaxis", "yaxis"] : []) {
      if (chart.layout[axis].type === "category") continue;
      const button = add(`log ${axis[0]}`, `logarithmic ${axis[0]} axis`, () => {
        const log = button.getAttribute("aria-pressed") !== "true";
        button.setAttribute("aria-pressed", String(log));
        Plotly.relayout(plot, { [`${axis}.type`]: log ? "log" : "linear", [`${axis}.autorange`]: true });
      });
      button.setAttribute("aria-pressed", String(chart.layout[axis].type === "log"));
      button.disabled = chart.data.some((trace) => trace[axis[0]].some((value) => value !== null && value <= 0));
    }
    return line;
  }
  const rangeOf = (plot, axis) => plot._fullLayout[axis].range.map(Number);
  function zoom(plot, factor) {
    const update = {};
    for (const axis of ["xaxis", "yaxis"]) {
      const [low, high] = rangeOf(plot, axis);
      const half = (factor * (high - low)) / 2;
      update[`${axis}.range`] = [(low + high) / 2 - half, (low + high) / 2 + half];
    }
    Plotly.relayout(plot, update);
  }
  function showAll(plot) {
    const { autorange, range } = plot.chart.layout.yaxis;
    Plotly.relayout(plot, { "xaxis.autorange": true, ...(range ? { "yaxis.range": range } : { "yaxis.autorange": autorange || true }) });
  }

  // Keys: arrows move, + and − zoom, 0 shows all.
  function move(event, plot) {
    if (!plot._fullLayout || event.ctrlKey || event.metaKey || event.altKey) return;
    const shift = { ArrowLeft: ["xaxis", -0.15], ArrowRight: ["xaxis", 0.15], ArrowDown: ["yaxis", -0.15], ArrowUp: ["yaxis", 0.15] }[event.key];
    const factor = { "+": 0.7, "=": 0.7, "-": 1 / 0.7, "−": 1 / 0.7 }[event.key];
    if (shift) {
      const [axis, share] = shift;
      const [low, high] = rangeOf(plot, axis);
      Plotly.relayout(plot, { [`${axis}.range`]: [low + share * (high - low), high + share * (high - low)] });
    } else if (factor) {
      zoom(plot, factor);
    } else if (event.key === "0") {
      showAll(plot);
    } else {
      return;
    }
    event.preventDefault();
  }

  // The chart's numbers as a table, which is built when it is opened.
  function asTable(chart) {
    const details = document.createElement("details");
    details.innerHTML = "<summary>As a table</summary>";
    details.addEventListener("toggle", () => {
      if (!details.open || details.children.length > 1) return;
      const holder = document.createElement("div");
      holder.className = "scroll";
      holder.tabIndex = 0;
      holder.setAttribute("role", "group");
      holder.setAttribute("aria-label", `${chart.title}, as a table`);
      holder.append(chart.data[0].type === "heatmap" ? gridTable(chart) : lineTable(chart));
      details.append(holder);
    });
    return details;
  }
  function table(head, rows) {
    const made = document.createElement("table");
    const line = (cells, header) => {
      const row = document.createElement("tr");
      cells.forEach((content, index) => {
        const cell = document.createElement(header || index === 0 ? "th" : "td");
        if (header || index === 0) cell.scope = header ? "col" : "row";
        cell.textContent = content ?? "";
        row.append(cell);
      });
      return row;
    };
    made.createTHead().append(line(head, true));
    made.createTBody().append(...rows.map((row) => line(row, false)));
    return made;
  }
  function lineTable(chart) {
    const lines = chart.data.filter((trace) => trace.showlegend !== false);
    const numeric = lines.every((trace) => trace.x.every((x) => typeof x === "number"));
    const places = [...new Set(lines.flatMap((trace) => trace.x))];
    if (numeric) places.sort((a, b) => a - b);
    const values = lines.map((trace) => new Map(trace.x.map((x, index) => [x, trace.y[index]])));
    const head = [chart.layout.xaxis.title.text, ...lines.map((trace) => trace.name)];
    return table(head, places.map((x) => [x, ...values.map((value) => value.get(x))]));
  }
  function gridTable(chart) {
    const [trace] = chart.data;
    const { xaxis, yaxis } = chart.layout;
    const [across, down] = [trace.x, trace.y].map((names) => (chart.key.length ? chart.key : names));
    return table([`${yaxis.title.text}, ${xaxis.title.text}`, ...across], down.map((name, index) => [name, ...(trace.hovertext ?? trace.text)[index]]));
  }

  charts.forEach((chart, index) => {
    one(`.charts[data-section="${chart.section}"]`).append(card(chart, index));
  });
  const diagnosed = one("#diagnosed");
  if (diagnosed) {
    if (memory.get("diagnosed")) diagnosed.value = memory.get("diagnosed");
    if (diagnosed.selectedIndex < 0) diagnosed.selectedIndex = 0;
    diagnosed.addEventListener("change", () => { memory.set("diagnosed", diagnosed.value); filter(); });
  }
  applyTheme();
  filter();

  // For printing, every chart that is shown is drawn in dark colours and as wide as the sheet.
  addEventListener("beforeprint", () => {
    root.dataset.theme = "light";
    every("figure:not([hidden]) > .chart").forEach((plot) => {
      draw(plot);
      Plotly.relayout(plot, { ...colours(), width: PAPER.width, height: PAPER.height });
    });
  });
  addEventListener("afterprint", () => {
    applyTheme();
    every(".chart.js-plotly-plot").forEach((plot) => Plotly.relayout(plot, { width: null, height: null, autosize: true }));
  });

  // While runs are being trained, the report is rewritten and reloaded; the reader's scroll position is kept.
  const refresh = Number(document.body.dataset.refresh);
  if (memory.get("scroll")) scrollTo({ top: memory.get("scroll"), behavior: "instant" });
  memory.set("scroll", 0);
  if (refresh) {
    setTimeout(() => { memory.set("scroll", scrollY); location.reload(); }, 1000 * refresh);
  }
  root.dataset.ready = "true";
})();

"use strict";
(() => {
  const every = (selector, root = document) => [...root.querySelectorAll(selector)];
  const one = (selector, root = document) => root.querySelector(selector);
  const charts = JSON.parse(one("#charts").textContent);
  const root = document.documentElement;
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;

  // What the reader chose outlasts the page's loading itself anew; a file's storage may be closed to it.
  const memory = {
    get(key) { try { return JSON.parse(sessionStorage.getItem("iql " + key)); } catch { return null; } },
    set(key, value) { try { sessionStorage.setItem("iql " + key, JSON.stringify(value)); } catch { /* as above */ } },
  };

  // Colours: as the system says, light or dark.
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

  // Filters: which tasks and configurations are shown.
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
    every("#results tr[data-configuration], #maps figure").forEach((node) => { node.hidden = !passes(node); });
    const diagnosed = one("#diagnosed") ? one("#diagnosed").value : "";
    every(".charts[data-section] > figure").forEach((figure) => {
      const own = figure.closest("[data-section]").dataset.section === "diagnostics";
      figure.hidden = own ? figure.dataset.task !== diagnosed : !passes(figure);
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

  // Runs: a search and a state besides.
  function filterRuns(passes) {
    const words = one("#search").value.toLowerCase().split(/\s+/);
    const state = one("#state").value;
    let count = 0;
    const rows = every("#runs tbody tr");
    rows.forEach((row) => {
      const text = row.textContent.toLowerCase();
      row.hidden = !passes(row) || (state !== "" && row.dataset.state !== state) || !words.every((word) => text.includes(word));
      count += !row.hidden;
    });
    one("#counted").textContent = `${count} of ${rows.length} runs`;
  }
  one("#search").addEventListener("input", filter);
  one("#state").addEventListener("change", filter);

  // Tables sort by the column whose head is pressed.
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

  // Charts are drawn when they come near the window.
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
    figure.append(caption, plot, tools(chart, plot), asTable(chart));
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

  function draw(plot) {
    const configurations = chosen("configuration");
    const { data, layout } = plot.chart;
    const traces = data.map((trace) => ({ ...trace, visible: visible(trace, configurations) }));
    const axis = { automargin: true, zeroline: false };
    const named = data.filter((trace) => trace.showlegend !== false && trace.type === "scatter");
    Plotly.newPlot(plot, traces, {
      ...layout,
      xaxis: { ...axis, ...layout.xaxis },
      yaxis: { ...axis, ...layout.yaxis },
      margin: { l: 56, r: 12, t: 8, b: 40 },
      font: { family: "system-ui, sans-serif", size: 12 },
      legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom", itemclick: false, itemdoubleclick: false },
      showlegend: plot.chart.section !== "diagnostics" && named.length > 1 && named.length <= 8,
      hovermode: data.some((trace) => trace.type === "heatmap") ? "closest" : "x",
    }, { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "select2d"] })
      .then(() => Plotly.relayout(plot, colours()))
      .then(() => { plot.dataset.drawn = "true"; });
  }

  function tools(chart, plot) {
    const line = document.createElement("p");
    line.className = "tools";
    const lines = chart.data.some((trace) => String(trace.mode).includes("lines"));
    for (const axis of lines ? ["xaxis", "yaxis"] : []) {
      if (chart.layout[axis].type === "category") continue;
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = `log ${axis[0]}`;
      button.setAttribute("aria-label", `logarithmic ${axis[0]} axis: ${chart.title}`);
      button.setAttribute("aria-pressed", "false");
      button.disabled = chart.data.some((trace) => trace[axis[0]].some((value) => value !== null && value <= 0));
      button.addEventListener("click", () => {
        const log = button.getAttribute("aria-pressed") !== "true";
        button.setAttribute("aria-pressed", String(log));
        Plotly.relayout(plot, { [`${axis}.type`]: log ? "log" : "linear", [`${axis}.autorange`]: true });
      });
      line.append(button);
    }
    return line;
  }

  // Arrows move, + and − zoom, 0 shows all.
  function move(event, plot) {
    const layout = plot._fullLayout;
    if (!layout || event.ctrlKey || event.metaKey || event.altKey) return;
    const shift = { ArrowLeft: ["xaxis", -0.15], ArrowRight: ["xaxis", 0.15], ArrowDown: ["yaxis", -0.15], ArrowUp: ["yaxis", 0.15] }[event.key];
    const zoom = { "+": 0.7, "=": 0.7, "-": 1 / 0.7, "−": 1 / 0.7 }[event.key];
    const range = (axis) => layout[axis].range.map(Number);
    if (shift) {
      const [axis, share] = shift;
      const [low, high] = range(axis);
      Plotly.relayout(plot, { [`${axis}.range`]: [low + share * (high - low), high + share * (high - low)] });
    } else if (zoom) {
      const update = {};
      for (const axis of ["xaxis", "yaxis"]) {
        const [low, high] = range(axis);
        const half = (zoom * (high - low)) / 2;
        update[`${axis}.range`] = [(low + high) / 2 - half, (low + high) / 2 + half];
      }
      Plotly.relayout(plot, update);
    } else if (event.key === "0") {
      Plotly.relayout(plot, { "xaxis.autorange": true, "yaxis.autorange": plot.chart.layout.yaxis.autorange || true });
    } else {
      return;
    }
    event.preventDefault();
  }

  // The same numbers as a table, made when it is opened.
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
    return table([`${yaxis.title.text}, ${xaxis.title.text}`, ...trace.x], trace.y.map((name, index) => [name, ...trace.text[index]]));
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

  // A report of runs under way is written anew, and so loaded anew, where the reader left it.
  const refresh = Number(document.body.dataset.refresh);
  if (memory.get("scroll")) scrollTo({ top: memory.get("scroll"), behavior: "instant" });
  memory.set("scroll", 0);
  if (refresh) {
    setTimeout(() => { memory.set("scroll", scrollY); location.reload(); }, 1000 * refresh);
  }
  root.dataset.ready = "true";
})();

// Tables that sort; figures that name, keep and filter languages; and a page that prints whole.
(function () {
  "use strict";
  function all(selector, within) { return Array.from((within || document).querySelectorAll(selector)); }
  function byId(id) { return document.getElementById(id); }
  document.documentElement.classList.remove("no-script");

  // ---- tables
  all("table.sortable th").forEach(function (head) {
    head.tabIndex = 0;
    head.title = "Sort by this column";
    function sort() {
      var body = head.closest("table").tBodies[0], index = head.cellIndex;
      var down = head.getAttribute("aria-sort") === "ascending";
      all("th", head.parentNode).forEach(function (other) { other.removeAttribute("aria-sort"); });
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      function key(row) {
        var cell = row.cells[index], value = cell.dataset.v;
        if (cell.classList.contains("none")) return null;
        return value === undefined ? cell.textContent.toLowerCase() : parseFloat(value);
      }
      Array.from(body.rows).map(function (row, i) { return { row: row, key: key(row), i: i }; }).sort(function (a, b) {
        if (a.key === null || b.key === null) return (a.key === null) - (b.key === null) || a.i - b.i;
        var order = a.key < b.key ? -1 : a.key > b.key ? 1 : 0;
        return (down ? -order : order) || a.i - b.i;
      }).forEach(function (entry) { body.appendChild(entry.row); });
    }
    head.addEventListener("click", sort);
    head.addEventListener("keydown", function (event) {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); sort(); }
    });
  });

  // ---- printing: all details open, as they were afterwards
  var opened = [];
  addEventListener("beforeprint", function () {
    opened = all("details:not([open])");
    opened.forEach(function (one) { one.open = true; });
  });
  addEventListener("afterprint", function () { opened.forEach(function (one) { one.open = false; }); });

  // ---- what scrolls can be reached with the keyboard; on a narrow screen the contents are folded
  function reach() {
    all(".scroll, .pane").forEach(function (one) {
      if (one.scrollWidth > one.clientWidth + 1 || one.scrollHeight > one.clientHeight + 1) one.tabIndex = 0;
      else one.removeAttribute("tabindex");
    });
  }
  addEventListener("resize", reach);
  document.addEventListener("toggle", reach, true);
  reach();
  var contents = byId("contents");
  if (matchMedia("(max-width: 1000px)").matches) {
    contents.open = false;
    contents.addEventListener("click", function (event) { if (event.target.tagName === "A") contents.open = false; });
  }

  // ---- languages
  if (!byId("languages")) return;
  var known = JSON.parse(byId("languages").textContent), KINDS = ["script", "family", "resource"];
  var pinned = [], hovered = "", figures = [];
  var rows = all("main tbody tr").map(function (row) {  // the first language that a row names
    var cell = Array.from(row.cells).find(function (one) { return one.title in known; });
    return { row: row, code: cell && cell.title };
  });
  function kind(code, i) { return (known[code] || [])[i + 1] || "unknown"; }
  function name(code) { return known[code] ? known[code][0] : code; }  // a pivot may be no language
  function passes(code) {
    return KINDS.every(function (one, i) { var asked = byId("by-" + one).value; return !asked || kind(code, i) === asked; });
  }
  function tell(figure) {  // only of the figure's own languages, so that others do not fade all it has
    if (!figure.view) return;
    figure.view.signal("pinned", pinned.filter(function (code) { return figure.codes.has(code); }));
    figure.view.signal("hovered", figure.codes.has(hovered) ? hovered : "").runAsync();
  }
  function hover(code) { if (code !== hovered) { hovered = code; figures.forEach(tell); } }
  function toggle(code) {
    pinned = pinned.includes(code) ? pinned.filter(function (other) { return other !== code; }) : pinned.concat(code);
    keep();
  }
  function keep() {
    figures.forEach(tell);
    rows.forEach(function (one) { one.row.classList.toggle("pinned", pinned.includes(one.code)); });
    byId("chips").replaceChildren.apply(byId("chips"), pinned.map(function (code) {
      var chip = document.createElement("button");
      chip.type = "button";
      chip.textContent = name(code) + " ×";
      chip.title = "No longer keep " + name(code) + " (" + code + ")";
      chip.addEventListener("click", function () { toggle(code); });
      return chip;
    }));
  }
  function filter() {
    figures.forEach(function (figure) { if (figure.view) figure.view.data("rows", shown(figure)).resize().runAsync(); });
    rows.forEach(function (one) { one.row.hidden = Boolean(one.code) && !passes(one.code); });
  }
  KINDS.forEach(function (one, i) {
    var found = Object.keys(known).map(function (code) { return kind(code, i); });
    Array.from(new Set(found)).sort().forEach(function (value) { byId("by-" + one).add(new Option(value, value)); });
    byId("by-" + one).addEventListener("change", filter);
  });
  Object.keys(known).sort(function (a, b) { return name(a) < name(b) ? -1 : 1; }).forEach(function (code) {
    byId("names").append(new Option(code, name(code)));
  });
  byId("find").addEventListener("change", function (event) {
    var asked = event.target.value.toLowerCase();
    var code = Object.keys(known).find(function (one) { return one.toLowerCase() === asked || name(one).toLowerCase() === asked; });
    if (code && !pinned.includes(code)) toggle(code);
    if (code) event.target.value = "";
  });
  byId("pick").addEventListener("submit", function (event) { event.preventDefault(); });
  byId("pick").addEventListener("reset", function () { pinned = []; keep(); setTimeout(filter); });

  // ---- figures
  function rowsOf(made) {
    var names = Object.keys(made.rows);
    return made.rows.unit.map(function (unit, i) {
      var row = {};
      names.forEach(function (field) { row[field] = made.rows[field][i]; });
      row.language = made.units.language[unit];
      row.name = row.label = name(row.language);
      if (made.units.pivot) row.label += " (" + name(made.units.pivot[unit]) + ")";
      KINDS.forEach(function (one, k) { row[one] = kind(row.language, k); });
      return row;
    });
  }
  function shown(figure) { return figure.rows.filter(function (row) { return passes(row.language); }); }
  function style() {
    var css = getComputedStyle(document.documentElement);
    function of(property) { return css.getPropertyValue(property).trim(); }
    var text = { labelColor: of("--soft"), titleColor: of("--ink"), labelFontSize: 11, titleFontSize: 12, titleFontWeight: "normal" };
    return {
      background: null, font: getComputedStyle(document.body).fontFamily, view: { stroke: null },
      axis: Object.assign({ gridColor: of("--line"), domainColor: of("--soft"), tickColor: of("--soft") }, text),
      legend: text, text: { color: of("--ink") }
    };
  }
  function mended(vega) {  // over the nearest point, Vega-Lite 6 looks for a tooltip's words in the wrong place
    return JSON.parse(JSON.stringify(vega), function (key, value) {
      if (value && value.isVoronoi && value.tooltip && value.tooltip.signal) {
        value.tooltip.signal = value.tooltip.signal.replace(/(datum\.)?datum\[/g, "datum.datum[");
      }
      return value;
    });
  }
  function draw(figure) {
    var spec = JSON.parse(JSON.stringify(figure.made.spec));
    spec.datasets = Object.assign(spec.datasets || {}, { rows: shown(figure) });
    spec.description = figure.element.querySelector("figcaption").textContent.trim();
    var isDark = matchMedia("(prefers-color-scheme: dark)").matches;
    vegaEmbed(figure.place, spec, {
      actions: false, renderer: "canvas", logLevel: 1, config: style(), patch: mended, tooltip: { theme: isDark ? "dark" : "light" }
    }).then(function (result) {
      var view = figure.view = result.view;
      figure.element.classList.add("drawn");
      tell(figure);
      function code(item) {
        var datum = item && item.datum;
        return (datum && (datum.language || (datum.datum && datum.datum.language))) || "";
      }
      view.addEventListener("pointermove", function (event, item) { hover(code(item)); });
      view.addEventListener("pointerout", function () { hover(""); });
      view.addEventListener("click", function (event, item) { if (code(item)) toggle(code(item)); });
    }).catch(function (error) { console.error(error); figure.place.remove(); });  // the picture stays
  }
  var waiting = new IntersectionObserver(function (entries) {
    entries.filter(function (entry) { return entry.isIntersecting; }).forEach(function (entry) {
      waiting.unobserve(entry.target);
      draw(figures.find(function (one) { return one.element === entry.target; }));
    });
  }, { rootMargin: "600px" });
  all("script.live").forEach(function (source) {
    var figure = { element: source.closest("figure"), made: JSON.parse(source.textContent), place: document.createElement("div") };
    figure.place.className = "chart";
    figure.rows = rowsOf(figure.made);
    figure.codes = new Set(figure.made.units.language);
    source.before(figure.place);
    figures.push(figure);
    waiting.observe(figure.element);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", function () {
    figures.forEach(function (figure) { if (figure.view) { figure.view.finalize(); draw(figure); } });
  });
})();

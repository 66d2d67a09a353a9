(() => {
  "use strict";
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  // Colours and fonts of the page's present scheme, laid over a figure's own layout.
  const themed = (layout, height) => {
    const axis = (own) => own && ({ ...own, gridcolor: style("--grid"), linecolor: style("--line"),
      tickcolor: style("--line"), zerolinecolor: style("--grid") });
    // A treemap has no axes, and plotly stumbles over one that is there but undefined.
    const axes = layout.xaxis ? { xaxis: axis(layout.xaxis), yaxis: axis(layout.yaxis) } : {};
    return { ...layout, height, autosize: true, ...axes,
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "system-ui, -apple-system, Segoe UI, Roboto, Helvetica, Arial, sans-serif", size: 12, color: style("--ink") },
      hoverlabel: { bgcolor: style("--panel"), bordercolor: style("--line"), font: { color: style("--ink") }, align: "left" } };
  };
  const options = { responsive: true, displayModeBar: false };
  for (const { key, data, layout, height } of figures) {
    Plotly.newPlot(key, data, themed(layout, height), options);
  }
  dark.addEventListener("change", () => {
    for (const { key, data, layout, height } of figures) Plotly.react(key, data, themed(layout, height), options);
  });
})();

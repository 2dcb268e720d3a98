// Draws every chart of the page in the reader's light or dark theme; vegaEmbed is bundled before it.
const { charts, themes } = JSON.parse(document.getElementById("data").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");

async function draw() {
  const config = { ...themes[dark.matches ? "dark" : "light"], background: "transparent" };
  // ast: expressions are interpreted, so that the page's policy need not allow eval.
  const options = { ast: true, actions: false, renderer: "svg", config, tooltip: { theme: dark.matches ? "dark" : "light" } };
  for (const [name, chart] of Object.entries(charts)) {
    await vegaEmbed(document.getElementById(name), chart, options);
  }
  document.documentElement.dataset.drawn = dark.matches ? "dark" : "light";
}

dark.addEventListener("change", draw);
draw();

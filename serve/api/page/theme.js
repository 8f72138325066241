// Runs before the first paint, so that a chosen theme does not flash: everything else is a module and comes later.
(() => {
  let chosen = "";
  try {
    chosen = localStorage.getItem("trimtab-theme") ?? "";
  } catch {
    // Storage is turned off: the system's theme it is.
  }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();

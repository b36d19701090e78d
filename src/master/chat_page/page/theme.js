// Runs before the first paint, so that a chosen theme never flashes the other one.
(() => {
  const NAME = "fathom.theme";
  const ORDER = ["system", "light", "dark"];
  const root = document.documentElement;

  const load = () => {
    try {
      const value = localStorage.getItem(NAME);
      return ORDER.includes(value) ? value : "system";
    } catch {
      return "system";
    }
  };

  root.dataset.theme = load();

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const say = () => {
      button.title = `Theme: ${root.dataset.theme}`;
      button.setAttribute("aria-label", button.title);
    };
    say();
    button.addEventListener("click", () => {
      root.dataset.theme = ORDER[(ORDER.indexOf(root.dataset.theme) + 1) % ORDER.length];
      try {
        localStorage.setItem(NAME, root.dataset.theme);
      } catch {
        // Chosen for this visit alone.
      }
      say();
    });
  });
})();

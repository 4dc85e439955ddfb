// The switch goes from the system's theme to light, to dark and back; the choice is kept where the
// browser lets a file keep one.
{
  const button = byId("theme"), themes = ["system", "light", "dark"];
  const kept = () => { try { return localStorage.getItem("infifusion-theme"); } catch { return null; } };
  const keep = (theme) => { try { localStorage.setItem("infifusion-theme", theme); } catch { /* not kept */ } };
  const show = (theme) => {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    button.textContent = `Theme: ${theme}`;
    button.value = theme;
  };
  button.addEventListener("click", () => {
    const next = themes[(themes.indexOf(button.value) + 1) % themes.length];
    show(next);
    keep(next);
  });
  show(themes.includes(kept()) ? kept() : "system");
  button.hidden = false;
}

// Links to parts of the page become tabs (WAI-ARIA: one tab stop, arrow keys, Home, End). Without
// this script the page is one long page with links, which is also how it is printed.
for (const list of document.querySelectorAll("[data-tabs]")) {
  const tabs = [...list.querySelectorAll("a")], page = list.dataset.tabs === "page";
  const panelOf = (tab) => document.querySelector(tab.getAttribute("href"));
  const show = (chosen) => {
    for (const tab of tabs) {
      const selected = tab === chosen;
      tab.setAttribute("aria-selected", selected);
      tab.tabIndex = selected ? 0 : -1;
      panelOf(tab).hidden = !selected;
    }
    list.scrollLeft = chosen.offsetLeft - list.offsetLeft - (list.clientWidth - chosen.offsetWidth) / 2;
  };
  const open = (tab) => {
    show(tab);
    if (page) {
      history.replaceState(null, "", tab.getAttribute("href"));
      scrollTo(0, 0);
    }
  };
  list.setAttribute("role", "tablist");
  tabs.forEach((tab, place) => {
    const panel = panelOf(tab);
    tab.id = `tab-${panel.id}`;
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-controls", panel.id);
    panel.setAttribute("role", "tabpanel");
    panel.setAttribute("aria-labelledby", tab.id);
    panel.removeAttribute("aria-label");
    panel.classList.add("panel");
    panel.tabIndex = -1;
    tab.addEventListener("click", (event) => { event.preventDefault(); open(tab); });
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: tabs.length - 1 }[event.key];
      if (event.key === " " || event.key === "Enter") { event.preventDefault(); open(tab); }
      if (step === undefined) return;
      event.preventDefault();
      const next = tabs[(step + tabs.length) % tabs.length];
      open(next);
      next.focus();
    });
  });
  const named = () => tabs.find((tab) => tab.getAttribute("href") === location.hash);
  if (page) addEventListener("hashchange", () => { if (named()) show(named()); });
  if (tabs.length) show((page && named()) || tabs[0]);
}

// How many texts are visible, and which of them have a contrast below 4.5 (WCAG 2.2, 1.4.3, AA).
() => {
  const parse = (text) => {
    const parts = text.match(/-?[\d.]+/g).map(Number), scale = text.startsWith("color") ? 255 : 1;
    return [...parts.slice(0, 3).map((part) => part * scale), parts[3] ?? 1];
  };
  const over = (top, under) =>
    [0, 1, 2].map((i) => top[i] * top[3] + under[i] * (1 - top[3])).concat(1);
  const behind = (element) => {
    if (!element) return [255, 255, 255, 1];
    const own = parse(getComputedStyle(element).backgroundColor);
    return own[3] === 1 ? own : over(own, behind(element.parentElement));
  };
  const light = (rgb) => {
    const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = rgb.map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const weak = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let count = 0;
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.data.trim() || !element.checkVisibility()) continue;
    if (element.closest("title,script,style,option")) continue;
    const style = getComputedStyle(element), drawn = element.closest("svg");
    let ground = behind(drawn ? drawn.parentElement : element);
    const bar = drawn && element.classList.contains("on") && element.previousElementSibling;
    if (bar) ground = parse(getComputedStyle(bar).fill);
    const ink = over(parse(drawn ? style.fill : style.color), ground);
    const [high, low] = [light(ink), light(ground)].sort((a, b) => b - a);
    const ratio = (high + 0.05) / (low + 0.05);
    count += 1;
    const name = `${element.tagName}.${element.getAttribute("class")}`;
    if (ratio < 4.5) weak.push(`${ratio.toFixed(2)} ${name} ${node.data.trim().slice(0, 30)}`);
  }
  return [count, [...new Set(weak)]];
}

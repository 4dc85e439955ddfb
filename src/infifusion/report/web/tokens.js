// A response token by token: what every source expected there, how sure it was, what it weighs.
const tokenData = jsonOf("token-data");
if (tokenData) {
  const { sources, words, targets } = tokenData;
  const pick = byId("token-sample"), text = byId("token-text"), told = byId("token-told"), prompt = byId("token-prompt");
  const samples = targets.flatMap((target) => target.samples.map((sample) => ({ target, sample })));
  const spaces = (word) => word.replaceAll("\n", "↵").replaceAll("\t", "⇥").replaceAll(" ", "␣");
  const percent = (share) => (share > 0 && share < 0.0005 ? "< 0.1\u00a0%" : `${(100 * share).toFixed(1)}\u00a0%`);
  let at = 0, current = samples[0];

  const showGuesses = (parent, guesses, gold, hue) => {
    for (const [word, share] of guesses) {
      const row = add(parent, "div", "", word === gold ? "guess gold" : "guess");
      add(row, "code", spaces(words[word]));
      const bar = addSvg(row, "svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true", class: hue });
      addSvg(bar, "rect", { class: "rest", width: 100, height: 10 });
      addSvg(bar, "rect", { class: "area", width: 100 * share, height: 10 });
      add(row, "b", percent(share));
    }
  };
  const showSource = (parent, s, [word, weights, entropies, , guesses]) => {
    const source = current.target.sources[s], box = add(parent, "div"), title = add(box, "h4");
    add(title, "span", "", `mark c${source % 8}`);
    title.append(visible(sources[source]));
    const sure = entropies && entropies[s] !== null ? `, uncertainty ${entropies[s].toFixed(2)} nats` : "";
    add(box, "p", `weight ${weights[s].toFixed(2)}${sure}`, "soft");
    if (!guesses) return;
    if (guesses[s] === null) add(box, "p", "Takes no part: no token boundary here, or its gate is shut.", "soft");
    else showGuesses(box, guesses[s], word, `c${source % 8}`);
  };
  const tell = (place) => {
    const token = current.sample.tokens[place], [word, weights, , gold, , target] = token;
    told.replaceChildren();
    add(add(told, "h4", `Token ${place + 1} of ${current.sample.tokens.length}: `), "code", spaces(words[word]));
    if (!weights.some((weight) => weight > 0)) add(told, "p", "No source taught here: the gold token alone.");
    const believed = add(told, "div", "", "believed");
    weights.forEach((_, s) => showSource(believed, s, token));
    if (target) {
      const box = add(believed, "div");
      add(box, "h4", "Fused target");
      add(box, "p", gold === null ? "" : `gives this token ${percent(gold)}`, "soft");
      showGuesses(box, target, word, "fused");
    }
  };
  const go = (place) => {
    const tokens = text.children;
    at = Math.max(0, Math.min(tokens.length - 1, place));
    for (const token of text.querySelectorAll(".at")) token.classList.remove("at");
    tokens[at].classList.add("at");
    text.setAttribute("aria-activedescendant", tokens[at].id);
    for (const token of tokens) token.setAttribute("aria-selected", token === tokens[at]);
    tell(at);
  };
  const show = () => {
    current = samples[pick.value];
    prompt.textContent = visible(current.sample.prompt);
    text.replaceChildren();
    current.sample.tokens.forEach(([word, weights], place) => {
      const token = add(text, "span", words[word].replaceAll("\n", "↵\n"));
      const best = weights.indexOf(Math.max(...weights));
      token.id = `token-${place}`;
      token.setAttribute("role", "option");
      token.className = weights[best] > 0 ? `heat s${current.target.sources[best] % 8} h${5 * Math.round((12 + 48 * weights[best]) / 5)}` : "untaught";
    });
    go(0);
  };
  const placeOf = (event) => [...text.children].indexOf(event.target.closest("[role=option]"));
  text.tabIndex = 0;
  text.addEventListener("pointerover", (event) => { if (placeOf(event) >= 0) tell(placeOf(event)); });
  text.addEventListener("pointerleave", () => tell(at));
  text.addEventListener("click", (event) => { if (placeOf(event) >= 0) go(placeOf(event)); });
  text.addEventListener("keydown", (event) => {
    const next = { ArrowRight: at + 1, ArrowLeft: at - 1, ArrowDown: at + 10, ArrowUp: at - 10, Home: 0, End: text.children.length - 1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    go(next);
    text.children[at].scrollIntoView({ block: "nearest" });
  });
  pick.addEventListener("change", show);
  samples.forEach(({ target, sample }, place) => addOption(pick, place, `${target.name}, ${sample.domain}: ${sample.id}`));
  byId("token-controls").hidden = byId("token-view").hidden = false;
  show();
}

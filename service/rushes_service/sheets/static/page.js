// All clips show the same frame at the same time; a click shows one large, with a slider over its row.
"use strict";

const videos = [...document.querySelectorAll("td video")];
const large = document.getElementById("large");
const slider = large.querySelector("input");
const started = performance.now();
const seen = new Set();
let playing = true;
let row = [];

const observer = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (isIntersecting) seen.add(target);
    else {
      seen.delete(target);
      target.pause();
    }
  }
});
videos.forEach((video) => observer.observe(video));

function align(video) {
  if (!(video.duration > 0) || video.seeking || video.readyState < 2) return;
  const target = ((performance.now() - started) / 1000) % video.duration;
  if (Math.abs(video.currentTime - target) > 0.15 && Math.abs(video.currentTime - target) < video.duration - 0.15) video.currentTime = target;
}

setInterval(() => {
  for (const video of [...seen, ...large.querySelectorAll("video")]) {
    if (!playing) video.pause();
    else {
      video.play().catch(() => {});
      align(video);
    }
  }
}, 200);

function show(place) {
  const copy = row[place].cloneNode();
  copy.removeAttribute("loading");
  large.querySelector("p").textContent = copy.dataset.label;
  large.querySelector("div").replaceChildren(copy);
  slider.value = place;
}

document.querySelector("main > table tbody").addEventListener("click", (event) => {
  const cell = event.target.closest("td");
  if (!cell || !cell.firstElementChild) return;
  row = [...cell.parentNode.querySelectorAll("td > :not(.mark)")];
  slider.max = row.length - 1;
  show(row.indexOf(cell.firstElementChild));
  large.showModal();
  slider.focus();
});
slider.addEventListener("input", () => show(Number(slider.value)));
large.addEventListener("click", (event) => event.target !== slider && large.close());
large.addEventListener("close", () => large.querySelector("div").replaceChildren());
document.getElementById("zoom").addEventListener("input", (event) => document.documentElement.style.setProperty("--cell", `${event.target.value}px`));
document.getElementById("play").addEventListener("click", (event) => {
  playing = !playing;
  event.target.textContent = playing ? "Pause" : "Play";
});

"use strict";
// Reads what html_codec.py wrote: base64, raw deflate, byte planes, zigzag, differences.

function bytesOfBase64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const raw = atob(text);
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return bytes;
}

async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function integers(bytes, [offset, count, width, lag]) {
  const values = new Int32Array(count);
  for (let plane = 0; plane < width; plane++) {
    const start = offset + plane * count;
    const shift = 8 * plane;
    for (let i = 0; i < count; i++) values[i] |= bytes[start + i] << shift;
  }
  for (let i = 0; i < count; i++) values[i] = (values[i] >>> 1) ^ -(values[i] & 1);
  if (lag) for (let i = lag; i < count; i++) values[i] += values[i - lag];
  return values;
}

// The arrays of one text element, by name.
async function readPack(id, index) {
  const bytes = await inflate(bytesOfBase64(document.getElementById(id).textContent));
  const arrays = {};
  for (const name of Object.keys(index)) arrays[name] = integers(bytes, index[name]);
  return arrays;
}

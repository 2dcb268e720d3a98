// A program in a web page: what billhook.h offers, over the module that `make runtime-wasm` builds.
// `await Program.open(bytes)`, then `program.run({x: typedArray}, samples)`.
"use strict";

const TYPES = {F32: Float32Array, I64: BigInt64Array, I32: Int32Array, BOOL: Uint8Array};
const PORT_BYTES = 112;  // of billhook_tensor, where pointers and size_t have four

class Program {
  static async open(bytes) {
    const lib = await billhookRuntime();
    const memory = lib._malloc(bytes.length), place = lib._malloc(8);
    try {
      lib.HEAPU8.set(bytes, memory);
      Program.#check(lib, lib._billhook_open_memory(memory, bytes.length, place));
      const handle = lib.getValue(place, "*");
      Program.#check(lib, lib._billhook_session_open(handle, 1, place));
      return new Program(lib, handle, lib.getValue(place, "*"));
    } finally {
      lib._free(memory);
      lib._free(place);
    }
  }

  constructor(lib, handle, session) {
    this.lib = lib;
    this.session = session;
    this.inputs = this.#ports(handle, lib._billhook_input_count, lib._billhook_input);
    this.outputs = this.#ports(handle, lib._billhook_output_count, lib._billhook_output);
  }

  static #check(lib, status) {
    if (status !== 0) throw new Error(lib.UTF8ToString(lib._billhook_error()));
  }

  // Name, type and numbers of one sample of each input or output.
  #ports(handle, count, describe) {
    const {lib} = this, found = {}, place = lib._malloc(PORT_BYTES);
    for (let i = 0; i < count(handle); ++i) {
      Program.#check(lib, describe(handle, i, place));
      const dimensions = lib.getValue(place + 8, "i32"), shape = [];
      for (let d = 0; d < dimensions; ++d) shape.push(lib.getValue(place + 16 + 8 * d, "i32"));
      found[lib.UTF8ToString(lib.getValue(place, "*"))] = {
        type: lib.UTF8ToString(lib.getValue(place + 4, "*")),
        shape: shape,
        elements: lib.getValue(place + 80, "i32"),
        bytes: lib.getValue(place + 88, "i32"),
      };
    }
    lib._free(place);
    return found;
  }

  // Arrays of the inputs by name, their samples one after another; gives Float32Arrays by name.
  run(arrays, samples = 1) {
    const {lib} = this, taken = [];
    const take = (bytes) => {
      taken.push(lib._malloc(Math.max(bytes, 1)));
      return taken[taken.length - 1];
    };
    try {
      const inputs = Object.entries(this.inputs).map(([name, port]) => {
        const given = arrays[name];
        if (!(given instanceof TYPES[port.type]) || given.length !== samples * port.elements)
          throw new Error(`${name} must be ${samples * port.elements} numbers of type ${port.type}`);
        const at = take(given.byteLength);
        lib.HEAPU8.set(new Uint8Array(given.buffer, given.byteOffset, given.byteLength), at);
        return at;
      });
      const outputs = Object.values(this.outputs).map((port) => take(samples * port.bytes));
      const [given, made] = [inputs, outputs].map((list) => {
        const at = take(4 * list.length);
        lib.HEAP32.set(list, at / 4);
        return at;
      });
      Program.#check(lib, lib._billhook_run(this.session, given, made, samples));
      return Object.fromEntries(Object.entries(this.outputs).map(([name, port], i) => {
        const count = samples * port.elements;
        return [name, lib.HEAPF32.slice(outputs[i] / 4, outputs[i] / 4 + count)];
      }));
    } finally {
      taken.forEach((at) => lib._free(at));
    }
  }
}

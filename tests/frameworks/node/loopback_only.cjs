// Loaded into each Node.js program of these tests: a connection to another machine is refused, and its host noted.
const { appendFileSync } = require("node:fs");
const { Socket } = require("node:net");

const HERE = new Set(["127.0.0.1", "::1", "localhost"]);
const connect = Socket.prototype.connect;

Socket.prototype.connect = function (...args) {
  const given = Array.isArray(args[0]) ? args[0] : args; // net.connect() hands its own arguments on in an array
  const options = typeof given[0] === "object" ? given[0] : { host: given[1] };
  const host = typeof options.host === "string" ? options.host : "localhost";
  if (options.path || HERE.has(host)) return connect.apply(this, args);
  appendFileSync(process.env.TEST_ELSEWHERE, `${host}\n`);
  return this.destroy(new Error(`these tests connect to nobody but this machine, and not to ${host}`));
};

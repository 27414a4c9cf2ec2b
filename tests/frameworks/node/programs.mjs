// A program that connects to a session by a framework, and does what the lines on its stdin say, one after the other.
//
// Each is answered by a line of JSON: {"value": ...}, or {"error": ...} in the framework's own words. The program never
// calls process.exit(): that it ends when stdin does shows that the framework holds nothing open.
//
// It is run by --eval in the folder of the packages, since that is where Node.js looks for those that such code imports.
import { createInterface } from "node:readline";

const [framework, url, site] = process.argv.slice(1);

const said = (error) => `${error.name ?? error.constructor.name}: ${error.message}`;
const hanging = "fetch('/hanging'), new Promise(() => {})";

async function puppeteer() {
  const { default: puppeteer } = await import("puppeteer-core");
  const where = url.startsWith("ws:") ? { browserWSEndpoint: url } : { browserURL: url };
  let browser, page;
  return {
    async connect() {
      browser = await puppeteer.connect({ ...where, defaultViewport: null });
      [page] = await browser.pages();
    },
    async work() {
      await page.goto(`${site}/counter`);
      await page.click("button");
      return await page.$eval("#told", (told) => told.textContent);
    },
    hang: () => page.evaluate(hanging),
    async context() {
      const context = await browser.createBrowserContext();
      page = await context.newPage();
    },
    leave: () => browser.disconnect(),
    close: () => browser.close(),
  };
}

async function stagehand() {
  const { localBrowser, Stagehand } = await import("@browserbasehq/stagehand");
  let browser, page;
  return {
    async connect() {
      browser = await localBrowser.connect({ cdpUrl: url });
      await Stagehand.create({ browser });
      [page] = await browser.context.pages();
    },
    async work() {
      await page.goto(`${site}/counter`);
      await page.locator("button").click();
      return await page.locator("#told").textContent();
    },
    hang: () => page.evaluate(hanging),
    // Resolves when the connection has been kept up twice more, each time with an answer of the browser.
    async beats() {
      const send = WebSocket.prototype.send;
      try {
        for (let n = 0; n < 2; n++)
          await new Promise((beaten) => {
            WebSocket.prototype.send = function (message) {
              const { id, method } = JSON.parse(message);
              const answered = ({ data }) => {
                if (JSON.parse(data).id !== id) return;
                this.removeEventListener("message", answered);
                beaten();
              };
              if (method === "Browser.getVersion") this.addEventListener("message", answered);
              return send.call(this, message);
            };
          });
      } finally {
        WebSocket.prototype.send = send;
      }
    },
    leave: () => browser.disconnect(),
    close: () => browser.close(),
  };
}

const does = await { puppeteer, stagehand }[framework]();
for await (const command of createInterface({ input: process.stdin })) {
  let answer;
  try {
    answer = { value: (await does[command]()) ?? null };
  } catch (error) {
    answer = { error: said(error) };
  }
  console.log(JSON.stringify(answer));
}

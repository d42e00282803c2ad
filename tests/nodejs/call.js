// Calls a method of an actor and prints its answer:
//   node call.js URL QUEUE METHOD '{"amount": 5}'
// The message is plain JSON, as docs/wire.md says; it is confirmed by the broker before the answer is awaited.
const amqp = require("amqplib");
const { randomUUID } = require("node:crypto");

async function call(url, queue, method, payload) {
  const connection = await amqp.connect(url);
  const channel = await connection.createConfirmChannel();
  const { queue: replyTo } = await channel.assertQueue("", { exclusive: true });
  const correlationId = randomUUID();

  const answer = new Promise((resolve, reject) => {
    channel.on("return", () => reject(new Error(`there is no actor at ${queue}`)));
    channel.consume(replyTo, (message) => {
      if (message.properties.correlationId === correlationId) resolve(JSON.parse(message.content));
    }, { noAck: true });
  });
  channel.sendToQueue(queue, Buffer.from(JSON.stringify({ method, payload })), {
    contentType: "application/json", correlationId, replyTo, persistent: true, mandatory: true,
  });
  await channel.waitForConfirms();
  try {
    return await answer;
  } finally {
    await connection.close();
  }
}

const [url, queue, method, payload] = process.argv.slice(2);
call(url, queue, method, JSON.parse(payload || "{}")).then(
  (answer) => console.log(JSON.stringify(answer)),
  (error) => { console.error(error.message); process.exit(1); },
);

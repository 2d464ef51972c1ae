// old_client.js MASTER_PORT NODES write|read PREFIX COUNT: the client of the old system writes COUNT keys, or reads and compares
// them, once it sees this many nodes up.

const { library, equal, main } = require('./check');
const ClusterClient = library('volatile-redis-cluster');
const [masterPort, nodes, what, prefix, count] = process.argv.slice(2);

const client = new ClusterClient({ host: '127.0.0.1', port: Number(masterPort) });
// Such as a message on its bus that it does not know.
for (const event of ['error', 'slaveerror']) {
    client.on(event, (error) => {
        console.error(event, error);
        process.exit(1);
    });
}

const nodesUp = () => Object.values(client.consistentHash.nodes).filter((node) => node.up).length;

async function untilUp() {
    while (nodesUp() !== Number(nodes)) {
        await new Promise((resolve) => setTimeout(resolve, 10));
    }
}

// What the client's node for a key answers to a command.
function ask(key, command, ...args) {
    return new Promise((resolve, reject) => {
        client.getShardClient(key, (error, redis) => {
            if (error || !redis) return reject(error ?? new Error(`no node for ${key}`));
            redis[command](key, ...args, (error, answer) => (error ? reject(error) : resolve(answer)));
        });
    });
}

main(async () => {
    await untilUp();
    const keys = Array.from({ length: Number(count) }, (_, number) => `${prefix}:${number}`);
    await Promise.all(
        keys.map(async (key) => {
            if (what === 'write') equal(await ask(key, 'set', `value of ${key}`), 'OK');
            else equal(await ask(key, 'get'), `value of ${key}`);
        }),
    );
});

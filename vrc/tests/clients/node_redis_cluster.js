// node_redis_cluster.js PORT PROTOCOL: work through node-redis' cluster client, every answer checked.

const { library, equal, main, until, port, protocol } = require('./check');
const { createCluster } = library('redis');

async function work(r) {
    const keys = Array.from({ length: 300 }, (_, number) => `key:${number}`);
    await Promise.all(
        keys.map(async (key, number) => {
            equal(await r.set(key, String(number)), 'OK');
            equal(await r.incr(key), number + 1);
        }),
    );
    equal(await r.mSet({ '{tag}a': '1', '{tag}b': '2' }), 'OK');
    equal(await r.mGet(['{tag}a', '{tag}b']), ['1', '2']);
    equal(await r.multi().set('{t}a', '1').incr('{t}a').exec(), ['OK', 2]);
    equal(await r.eval('return {KEYS[1], ARGV[1]}', { keys: ['k'], arguments: ['v'] }), ['k', 'v']);
    equal(r.masters.length, 1);
    equal(await r.del(keys), 300);
}

async function channels(r) {
    const heard = new Set();
    await r.subscribe('channel', (text) => heard.add(text));
    await r.sSubscribe('shard', (text) => heard.add(text));
    // The subscription is confirmed behind the scenes, so each message is sent until somebody hears it.
    await until(async () => (await r.publish('channel', 'hello'), heard.has('hello')));
    await until(async () => (await r.sPublish('shard', 'sharded'), heard.has('sharded')));
}

main(async () => {
    const r = createCluster({ rootNodes: [{ socket: { host: '127.0.0.1', port } }], RESP: protocol });
    r.on('error', (error) => {
        throw error;
    });
    await r.connect();
    await work(r);
    await channels(r);
});

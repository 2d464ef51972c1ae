// node_redis_cluster.js PORT PROTOCOL: work through node-redis' cluster client, every answer checked.

const { library, equal, main, port, protocol } = require('./check');
const { createCluster } = library('redis');

main(async () => {
    const r = createCluster({ rootNodes: [{ socket: { host: '127.0.0.1', port } }], RESP: protocol });
    r.on('error', (error) => {
        throw error;
    });
    await r.connect();
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
    const heard = new Promise((resolve, reject) => r.subscribe('channel', resolve).catch(reject));
    // The subscription is confirmed behind the scenes, so the message is sent until somebody hears it.
    let text;
    heard.then((message) => (text = message));
    while (text === undefined) {
        await r.publish('channel', 'hello');
    }
    equal(text, 'hello');
    const sharded = new Promise((resolve, reject) => r.sSubscribe('shard', resolve).catch(reject));
    text = undefined;
    sharded.then((message) => (text = message));
    while (text === undefined) {
        await r.sPublish('shard', 'hello');
    }
    equal(text, 'hello');
    equal(await r.del(keys.slice(0, 1)), 1);
});

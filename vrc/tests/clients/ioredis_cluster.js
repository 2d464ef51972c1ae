// ioredis_cluster.js PORT PROTOCOL [lose]: work through ioredis' Cluster, every answer checked. With `lose` there is a second proxy: once
// the program says "ready", the one at PORT goes away.

const { library, equal, main, port, protocol, lineOfInput } = require('./check');
const { Cluster } = library('ioredis');

async function work(r) {
    const keys = Array.from({ length: 300 }, (_, number) => `key:${number}`);
    await Promise.all(
        keys.map(async (key, number) => {
            equal(await r.set(key, number), 'OK');
            equal(await r.incr(key), number + 1);
        }),
    );
    equal(await r.mset('{tag}a', 1, '{tag}b', 2), 'OK');
    equal(await r.mget('{tag}a', '{tag}b'), ['1', '2']);
    const pipeline = r.pipeline();
    for (let number = 0; number < 100; number++) pipeline.set(`{p}${number}`, number).get(`{p}${number}`);
    const answers = await pipeline.exec();
    for (let number = 0; number < 100; number++) equal(answers[number * 2 + 1], [null, String(number)]);
    equal(await r.multi().set('{t}a', 1).incr('{t}a').exec(), [[null, 'OK'], [null, 2]]);
    equal(await r.eval('return {KEYS[1], ARGV[1]}', 1, 'k', 'v'), ['k', 'v']);
    r.defineCommand('addto', { numberOfKeys: 1, lua: "return redis.call('incrby', KEYS[1], ARGV[1])" });
    equal(await Promise.all(keys.slice(0, 50).map((key) => r.addto(`script:${key}`, 7))), Array(50).fill(7));
    equal((await r.cluster('SLOTS'))[0].slice(0, 2), [0, 16383]);
    equal(await r.flushall(), 'OK');
    equal(await r.dbsize(), 0);
}

async function channels(r) {
    const listener = r.duplicate();
    const heard = new Promise((resolve) => listener.on('message', (channel, text) => resolve(text)));
    await listener.subscribe('channel');
    await r.publish('channel', 'hello');
    equal(await heard, 'hello');
    listener.disconnect();
}

main(async () => {
    const r = new Cluster([{ host: '127.0.0.1', port }], { redisOptions: { protocol }, slotsRefreshTimeout: 20000 });
    await work(r);
    await channels(r);
    equal(r.nodes('master').length, 1);
    if (process.argv[4] === 'lose') {
        equal(await r.set('stays', 1), 'OK');
        equal(r.nodes('all').length, 2);
        console.log('ready');
        equal(await lineOfInput(), 'gone');
        equal(await r.getdel('stays'), '1');
        await work(r);
    }
});

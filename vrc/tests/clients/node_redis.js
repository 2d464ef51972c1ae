// node_redis.js PORT PROTOCOL: typical work through node-redis, every answer checked.

const crypto = require('node:crypto');
const { library, equal, fails, main, port, protocol } = require('./check');
const { createClient, RESP_TYPES } = library('redis');

async function connect(options) {
    const client = createClient({ socket: { host: '127.0.0.1', port, reconnectStrategy: false }, RESP: protocol, ...options });
    client.on('error', (error) => {
        throw error;
    });
    return client.connect();
}

async function values(r) {
    equal(await r.set('s', 'value', { expiration: { type: 'EX', value: 100 } }), 'OK');
    equal(await r.set('s', 'other', { condition: 'NX' }), null);
    equal(await r.get('s'), 'value');
    equal(await r.append('s', '!'), 6);
    equal((await r.ttl('s')) > 90, true);
    equal(await r.incrBy('n', 10), 10);
    equal(Number(await r.incrByFloat('n', 0.5)), 10.5);
    equal(await r.hSet('h', { a: '1', b: 'two' }), 2);
    equal({ ...(await r.hGetAll('h')) }, { a: '1', b: 'two' });
    equal(await r.hmGet('h', ['b', 'nothing']), ['two', null]);
    equal(await r.hIncrBy('h', 'a', 4), 5);
    equal(await r.rPush('l', ['1', '2', '3']), 3);
    equal(await r.lRange('l', 0, -1), ['1', '2', '3']);
    equal(await r.lPopCount('l', 2), ['1', '2']);
    equal(await r.sAdd('{set}1', ['a', 'b']), 2);
    equal(await r.sAdd('{set}2', ['b', 'c']), 2);
    equal(await r.sInter(['{set}1', '{set}2']), ['b']);
    equal([...(await r.sUnion(['{set}1', '{set}2']))].sort(), ['a', 'b', 'c']);
    equal(await r.zAdd('z', [{ score: 1, value: 'one' }, { score: 2.5, value: 'two' }]), 2);
    equal(await r.zRangeWithScores('z', 0, -1), [{ score: 1, value: 'one' }, { score: 2.5, value: 'two' }]);
    equal(await r.zScore('z', 'two'), 2.5);
    equal(await r.xAdd('x', '1-1', { a: '1' }), '1-1');
    equal((await r.xRange('x', '-', '+')).map(({ id, message }) => [id, { ...message }]), [['1-1', { a: '1' }]]);
    equal(await r.type('x'), 'stream');
}

async function manyKeys(r) {
    const keys = Array.from({ length: 1000 }, (_, number) => `many:${number}`);
    equal(await r.mSet(keys.map((key) => [key, `value of ${key}`])), 'OK');
    equal(await r.mGet(keys), keys.map((key) => `value of ${key}`));
    equal(await r.mGet(['many:7', 'nothing', 'many:7']), ['value of many:7', null, 'value of many:7']);
    equal(await r.exists([...keys, 'many:1']), 1001);
    equal(await r.del([...keys.slice(0, 400), 'nothing']), 400);
    equal(await r.unlink(keys), 600);
    // Each of these is on its way before the first is answered.
    await Promise.all(
        keys.map(async (key, number) => {
            equal(await r.set(key, number), 'OK');
            equal(await r.incr(key), number + 1);
            equal(await r.mGet([key, 'nothing']), [String(number + 1), null]);
            equal(await r.del(key), 1);
        }),
    );
}

async function pipelines(r) {
    const pipeline = r.multi();
    for (let number = 0; number < 300; number++) {
        pipeline.set(`p:${number}`, number).incr(`p:${number}`).mGet([`p:${number}`, `p:${number - 1}`]);
    }
    const answers = await pipeline.execAsPipeline();
    for (let number = 0; number < 300; number++) {
        const expected = ['OK', number + 1, [String(number + 1), number ? String(number) : null]];
        equal(answers.slice(number * 3, number * 3 + 3), expected);
    }
}

async function errors(r) {
    await r.set('text', 'abc');
    await fails(r.incr('text'), 'ERR value is not an integer or out of range');
    await fails(r.lPush('text', '1'), 'WRONGTYPE Operation against a key holding the wrong kind of value');
    await fails(r.sendCommand(['GET']), "ERR wrong number of arguments for 'get' command");
    await fails(r.sendCommand(['NONSENSE', 'a']), "ERR unknown command 'NONSENSE', with args beginning with: 'a' ");
    await fails(r.select(1000), 'ERR DB index is out of range');
}

async function bigAndBinary(r) {
    const buffers = r.withTypeMapping({ [RESP_TYPES.BLOB_STRING]: Buffer });
    const big = crypto.randomBytes(1024 * 1024);
    equal((await buffers.set('big', big)).toString(), 'OK');
    equal((await buffers.get('big')).equals(big), true);
    for (const key of [Buffer.from([0]), Buffer.from('\r\n'), Buffer.from('*1\r\n$4\r\nPING\r\n'), crypto.randomBytes(300), Buffer.alloc(0)]) {
        await buffers.set(key, key);
        equal((await buffers.get(key)).equals(key), true);
        equal((await buffers.mGet([key, 'big']))[1].equals(big), true);
        equal(await buffers.del(key), 1);
    }
}

async function scripts(r) {
    equal(await r.eval('return {KEYS[1], ARGV[1], 7}', { keys: ['k'], arguments: ['v'] }), ['k', 'v', 7]);
    const sum = "redis.call('mset', KEYS[1], 1, KEYS[2], 2) return redis.call('mget', unpack(KEYS))";
    equal(await r.eval(sum, { keys: ['{e}1', '{e}2'] }), ['1', '2']);
}

async function connections(r) {
    const other = await connect({ database: 3, name: 'tester' });
    equal(await other.set('db', 'three'), 'OK');
    equal(await r.get('db'), null);
    equal(await other.clientGetName(), 'tester');
    const id = await other.clientId();
    equal((await other.clientList()).find((client) => client.id === id).name, 'tester');
    await other.select(0);
    equal(await other.get('db'), null);
    equal((await r.info()).includes('redis_version:'), true);
    equal(await r.ping(), 'PONG');
    await other.close();
}

main(async () => {
    const r = await connect();
    for (const work of [values, manyKeys, pipelines, errors, bigAndBinary, scripts, connections]) {
        await work(r);
    }
    await r.close();
});

// node_redis.js PORT PROTOCOL PASSWORD: typical work through node-redis, every answer checked.

const assert = require('node:assert/strict');
const crypto = require('node:crypto');
const { library, equal, fails, main, until, untilBlocked, port, protocol, password } = require('./check');
const { createClient, createClientPool, defineScript, RESP_TYPES, WatchError } = library('redis');

const settings = { socket: { host: '127.0.0.1', port, reconnectStrategy: false }, RESP: protocol, password };

async function connect(options) {
    const client = createClient({ ...settings, ...options });
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

async function transactions(r) {
    equal(await r.multi().set('{t}a', '1').incr('{t}a').mGet(['{t}a', '{t}b']).exec(), ['OK', 2, ['2', null]]);
    // Somebody else is faster, the first time.
    const other = await connect();
    for (const first of [true, false]) {
        await r.watch('{t}a');
        const before = Number(await r.get('{t}a'));
        if (first) equal(await other.set('{t}a', '7'), 'OK');
        const set = r.multi().set('{t}a', String(before + 1)).exec();
        if (first) await assert.rejects(set, WatchError);
        else equal(await set, ['OK']);
    }
    equal(await r.get('{t}a'), '8');
    await fails(r.multi().set('{t}a', '9').addCommand(['NONSENSE']).exec(), "ERR unknown command 'NONSENSE'");
    equal(await r.get('{t}a'), '8');
    await other.close();
}

async function channels(r) {
    const listener = await connect();
    const heard = [];
    const hear = (text) => heard.push(text);
    await listener.subscribe(['news', 'weather'], hear);
    await listener.pSubscribe('n?ws', hear);
    await listener.sSubscribe('shard', hear);
    // Each of these is on its way before the first is answered.
    const texts = Array.from({ length: 500 }, (_, number) => String(number));
    equal(await Promise.all(texts.map((text) => r.publish('news', text))), Array(500).fill(2));
    equal(await r.sPublish('shard', 'sharded'), 1);
    await until(async () => (await r.ping()) && heard.length === 1001);
    equal(heard.sort(), [...texts.flatMap((text) => [text, text]), 'sharded'].sort());
    await listener.unsubscribe();
    await listener.pUnsubscribe();
    await listener.sUnsubscribe();
    equal(await listener.get('nothing'), null);
    equal(await r.publish('news', 'nobody'), 0);
    await listener.close();
}

async function blocking(r) {
    const waiting = await connect();
    equal(await waiting.blPop('queue', 0.05), null);
    for (const [wait, push, expected] of [
        [() => waiting.blPop(['{q}1', '{q}2'], 30), () => r.rPush('{q}2', 'pushed'), { key: '{q}2', element: 'pushed' }],
        [() => waiting.blMove('{q}1', '{q}2', 'LEFT', 'RIGHT', 30), () => r.lPush('{q}1', 'moved'), 'moved'],
        [() => waiting.bzPopMin('ranking', 30), () => r.zAdd('ranking', { score: 1.5, value: 'first' }), { key: 'ranking', value: 'first', score: 1.5 }],
        [async () => JSON.stringify(await waiting.xRead({ key: 'log', id: '$' }, { BLOCK: 30000 })).includes('5-1'), () => r.xAdd('log', '5-1', { f: 'v' }), true],
    ]) {
        const found = wait();
        await untilBlocked(() => r.info('clients'), 1);
        await push();
        equal(await found, expected);
        await untilBlocked(() => r.info('clients'), 0);
    }
    await waiting.close();
}

async function scanning(r) {
    const keys = Array.from({ length: 2000 }, (_, number) => `scan:${number}`);
    await r.mSet(keys.map((key) => [key, '1']));
    const found = [];
    for await (const some of r.scanIterator({ MATCH: 'scan:*', COUNT: 100 })) found.push(...some);
    equal(found.sort(), keys.sort());
    equal(await r.unlink(keys), 2000);
}

// It sends EVALSHA, and EVAL once it was told NOSCRIPT.
async function definedCommands() {
    const addTo = defineScript({
        NUMBER_OF_KEYS: 1,
        SCRIPT: "return redis.call('incrby', KEYS[1], ARGV[1])",
        parseCommand: (parser, key, number) => (parser.pushKey(key), parser.push(String(number))),
        transformReply: (reply) => reply,
    });
    const r = await connect({ scripts: { addTo } });
    equal(await r.addTo('defined', 7), 7);
    const keys = Array.from({ length: 100 }, (_, number) => `defined:${number}`);
    equal(await Promise.all(keys.map((key) => r.addTo(key, 7))), Array(100).fill(7));
    equal(await r.multi().addTo('{d}1', 2).addTo('{d}2', 3).exec(), [2, 3]);
    await r.close();
}

async function pool() {
    const pool = createClientPool(settings, { minimum: 2, maximum: 5 });
    await pool.connect();
    const keys = Array.from({ length: 50 }, (_, number) => `pool:${number}`);
    equal(await Promise.all(keys.map((key) => pool.incr(key))), Array(50).fill(1));
    await pool.close();
}

// The library connects again by itself.
async function killed(r) {
    const other = createClient({ ...settings, socket: { host: '127.0.0.1', port }, database: 3 });
    const lost = new Promise((resolve) => other.on('error', resolve));
    await other.connect();
    equal(await other.set('kept', '1'), 'OK');
    equal(await r.clientKill({ filter: 'ID', id: await other.clientId() }), 1);
    await lost;
    equal(await other.getDel('kept'), '1');
    await other.close();
}

async function login() {
    const stranger = createClient({ ...settings, password: 'wrong' });
    stranger.on('error', () => {});
    await fails(stranger.connect(), 'WRONGPASS');
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
    const typical = [login, values, manyKeys, pipelines, transactions, channels, blocking, scanning];
    for (const work of [...typical, errors, bigAndBinary, scripts, definedCommands, connections, pool, killed]) {
        await work(r);
    }
    await r.close();
});

// JedisClient PORT PROTOCOL PASSWORD: typical work through Jedis and its pools, every answer checked.

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.Future;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import redis.clients.jedis.AbstractTransaction;
import redis.clients.jedis.BinaryJedisPubSub;
import redis.clients.jedis.DefaultJedisClientConfig;
import redis.clients.jedis.HostAndPort;
import redis.clients.jedis.Jedis;
import redis.clients.jedis.JedisPool;
import redis.clients.jedis.JedisPoolConfig;
import redis.clients.jedis.JedisPooled;
import redis.clients.jedis.Pipeline;
import redis.clients.jedis.Response;
import redis.clients.jedis.StreamEntryID;
import redis.clients.jedis.Transaction;
import redis.clients.jedis.args.ClientType;
import redis.clients.jedis.args.ListDirection;
import redis.clients.jedis.exceptions.JedisConnectionException;
import redis.clients.jedis.exceptions.JedisDataException;
import redis.clients.jedis.exceptions.JedisNoScriptException;
import redis.clients.jedis.params.ClientKillParams;
import redis.clients.jedis.params.ScanParams;
import redis.clients.jedis.params.SetParams;
import redis.clients.jedis.params.XAddParams;
import redis.clients.jedis.params.XReadParams;
import redis.clients.jedis.resps.ScanResult;
import redis.clients.jedis.resps.Tuple;

final class JedisClient {
    private static HostAndPort server;
    private static String protocol;
    private static String password;

    private static DefaultJedisClientConfig.Builder config() {
        return JedisCheck.config(protocol).password(password);
    }

    private static Jedis connect() {
        return new Jedis(server, config().build());
    }

    private static void equal(Object found, Object expected) {
        JedisCheck.equal(found, expected);
    }

    private static void equal(long found, long expected) {
        JedisCheck.equal(found, expected);
    }

    private static String[] keys(String start, int count) {
        return IntStream.range(0, count).mapToObj(number -> start + number).toArray(String[]::new);
    }

    private static void untilBlocked(Jedis r, int count) throws Exception {
        JedisCheck.until(() -> r.info("clients").contains("blocked_clients:" + count + "\r\n"));
    }

    private static void login() throws Exception {
        String refusal = "WRONGPASS invalid username-password pair or user is disabled.";
        JedisCheck.fails(() -> new Jedis(server, config().password("wrong").build()).connect(), refusal);
        JedisCheck.fails(() -> new Jedis(server, config().user("default").password("wrong").build()).connect(), refusal);
        try (Jedis r = new Jedis("127.0.0.1", server.getPort())) {
            JedisCheck.fails(() -> r.get("k"), "NOAUTH Authentication required.");
            equal(r.auth(password), "OK");
            equal(r.get("k"), null);
        }
        try (Jedis r = new Jedis(server, config().user("default").clientName("tester").database(3).build())) {
            equal(r.clientGetname(), "tester");
            equal(r.set("in3", "1"), "OK");
            equal(r.select(0), "OK");
            equal(r.get("in3"), null);
            JedisCheck.fails(() -> r.select(1000), "ERR DB index is out of range");
        }
    }

    private static void values(Jedis r) throws Exception {
        equal(r.set("s", "value", SetParams.setParams().ex(100)), "OK");
        equal(r.set("s", "other", SetParams.setParams().nx()), null);
        equal(r.get("s"), "value");
        equal(r.ttl("s") > 90, true);
        equal(r.incrBy("n", 10), 10);
        equal(r.incrByFloat("n", 0.5), 10.5);
        equal(r.hset("h", Map.of("a", "1", "b", "two")), 2);
        equal(r.hgetAll("h"), Map.of("a", "1", "b", "two"));
        equal(r.hmget("h", "b", "nothing"), Arrays.asList("two", null));
        equal(r.hrandfieldWithValues("h", 2).size(), 2);
        equal(r.rpush("l", "1", "2", "3"), 3);
        equal(r.lrange("l", 0, -1), List.of("1", "2", "3"));
        equal(r.lpop("l", 2), List.of("1", "2"));
        equal(r.sadd("{set}1", "a", "b"), 2);
        equal(r.sadd("{set}2", "b", "c"), 2);
        equal(r.sunion("{set}1", "{set}2"), Set.of("a", "b", "c"));
        equal(r.smismember("{set}1", "a", "nothing"), List.of(true, false));
        equal(r.zadd("z", Map.of("one", 1.0, "two", 2.5)), 2);
        equal(r.zrangeWithScores("z", 0, -1), List.of(new Tuple("one", 1.0), new Tuple("two", 2.5)));
        equal(r.zscore("z", "two"), 2.5);
        equal(r.zpopmin("z"), new Tuple("one", 1.0));
        equal(r.geoadd("geo", 13.361389, 38.115556, "Palermo"), 1);
        equal(Math.round(r.geopos("geo", "Palermo").get(0).getLongitude() * 1000), 13361);
        equal(r.xadd("x", Map.of("a", "1"), XAddParams.xAddParams().id("1-1")), new StreamEntryID(1, 1));
        equal(r.xrange("x", "-", "+").get(0).getFields(), Map.of("a", "1"));
        equal(r.xinfoStream("x").getLength(), 1);
        equal(r.type("x"), "stream");
        equal(r.setbit("bits", 7, true), false);
        equal(r.pfadd("log", "a", "b"), 1);
        equal(r.dump("s").length > 5, true);
        equal(r.mset("a", "1", "b", "2", "c", "3", "d", "4"), "OK");
        equal(r.mget("d", "a", "nothing", "b", "c"), Arrays.asList("4", "1", null, "2", "3"));
        equal(r.exists("a", "b", "nothing"), 2);
        equal(r.del("a", "b", "c", "d", "nothing"), 4);
        equal(r.time().size(), 2);
        equal(r.configGet("maxmemory"), Map.of("maxmemory", "0"));
        equal(r.echo("said"), "said");
        JedisCheck.fails(() -> r.lpush("s", "1"), JedisCheck.ERROR_OF_TYPE);
        String unknown = "ERR unknown command 'NONSENSE', with args beginning with: 'a' ";
        JedisCheck.fails(() -> r.sendCommand(() -> "NONSENSE".getBytes(), "a"), unknown);
        // One server has all keys, a cluster asks for one slot.
        if (!r.info("vrc").contains("# Vrc")) {
            equal(r.sunion("over", "these"), Set.of());
        } else {
            JedisCheck.fails(() -> r.sunion("over", "these"), "CROSSSLOT Keys in request don't hash to the same slot");
        }
    }

    private static void binary(Jedis r) {
        byte[] big = new byte[10 << 20];
        byte[] all = new byte[256];
        new Random().nextBytes(big);
        IntStream.range(0, 256).forEach(at -> all[at] = (byte) at);
        for (byte[] key : List.of(all, "\r\n".getBytes(), new byte[1], "*1\r\n$4\r\nPING\r\n".getBytes(), new byte[0])) {
            equal(r.set(key, key), "OK");
            equal(r.get(key), key);
            equal(r.del(key), 1);
        }
        equal(r.set(all, big), "OK");
        equal(r.get(all), big);
        equal(r.del(all), 1);
    }

    private static void pipelines(Jedis r) {
        List<Object> expected = new ArrayList<>();
        Pipeline pipeline = r.pipelined();
        for (int number = 0; number < 5000; number++) {
            pipeline.set("p:" + number, String.valueOf(number));
            pipeline.incr("p:" + number);
            pipeline.mget("p:" + number, "nothing");
            expected.addAll(List.of("OK", number + 1L, Arrays.asList(String.valueOf(number + 1), null)));
        }
        Response<Long> wrong = pipeline.lpush("p:0", "1");
        Response<String> right = pipeline.get("p:7");
        List<Object> found = pipeline.syncAndReturnAll();
        equal(found.subList(0, expected.size()), expected);
        equal(((JedisDataException) found.get(expected.size())).getMessage(), JedisCheck.ERROR_OF_TYPE);
        try {
            equal(wrong.get(), "refused");
        } catch (JedisDataException error) {
            equal(error.getMessage(), JedisCheck.ERROR_OF_TYPE);
        }
        equal(right.get(), "8");
        // All of it is written before any answer is read.
        String value = "v".repeat(100_000);
        List<Response<String>> answers = new ArrayList<>();
        for (int number = 0; number < 50; number++) {
            pipeline.set("big:" + number % 7, value);
            answers.add(pipeline.get("big:" + number % 7));
        }
        pipeline.sync();
        answers.forEach(answer -> equal(answer.get(), value));
    }

    private static void transactions(Jedis r, Jedis other) {
        Transaction transaction = r.multi();
        Response<String> set = transaction.set("{t}a", "1");
        Response<Long> wrong = transaction.lpush("{t}a", "1");
        transaction.mget("{t}a", "{t}b");
        List<Object> found = transaction.exec();
        equal(set.get(), "OK");
        equal(((JedisDataException) found.get(1)).getMessage(), JedisCheck.ERROR_OF_TYPE);
        equal(found.get(2), Arrays.asList("1", null));
        // Somebody else is faster, the first time.
        for (List<Object> expected : Arrays.asList(null, List.<Object>of("OK"))) {
            equal(r.watch("{t}a"), "OK");
            int before = Integer.parseInt(r.get("{t}a"));
            if (expected == null) {
                equal(other.set("{t}a", "7"), "OK");
            }
            Transaction attempt = r.multi();
            attempt.set("{t}a", String.valueOf(before + 1));
            equal(attempt.exec(), expected);
        }
        equal(r.get("{t}a"), "8");
        Transaction discarded = r.multi();
        discarded.incr("{t}a");
        equal(discarded.discard(), "OK");
        equal(r.get("{t}a"), "8");
        equal(r.watch("{t}a", "{t}b"), "OK");
        equal(r.unwatch(), "OK");
    }

    private static void scripts(Jedis r) throws Exception {
        String script = "return {KEYS[1], ARGV[1], redis.call('incrby', KEYS[1], ARGV[1])}";
        String unknown = "f".repeat(40);
        try {
            equal(r.evalsha(unknown, 1, "k"), "refused");
        } catch (JedisNoScriptException error) {
            equal(error.getMessage(), "NOSCRIPT No matching script. Please use EVAL.");
        }
        equal(r.eval(script, 1, "counter", "5"), List.of("counter", "5", 5L));
        String loaded = r.scriptLoad(script);
        for (String key : keys("script:", 50)) {
            equal(r.evalsha(loaded, List.of(key), List.of("3")), List.of(key, "3", 3L));
        }
        String seven = r.scriptLoad("return 7");
        equal(r.evalsha(seven), 7L);
        equal(r.scriptExists(seven, unknown), List.of(true, false));
        JedisCheck.fails(() -> r.eval("return redis.error_reply('MINE of my own')"), "MINE of my own");
    }

    private interface Wait {
        Object in(JedisPooled pool);
    }

    private interface Push {
        void in(Jedis r);
    }

    // Who waits does so with a connection of the pool.
    private static void wakes(JedisPooled pool, Jedis r, Wait wait, Push push, Object expected) throws Exception {
        Future<Object> found = JedisCheck.beside(() -> wait.in(pool));
        untilBlocked(r, 1);
        push.in(r);
        equal(found.get(), expected);
        untilBlocked(r, 0);
    }

    private static void blocking(Jedis r) throws Exception {
        try (JedisPooled pool = new JedisPooled(server, config().build(), JedisCheck.pool(50))) {
            equal(pool.blpop(0.05, "queue"), null);
            wakes(pool, r, p -> p.blpop(30, "{q}1", "{q}2"), p -> p.rpush("{q}2", "pushed"), List.of("{q}2", "pushed"));
            wakes(pool, r, p -> p.blmove("{q}1", "{q}2", ListDirection.LEFT, ListDirection.RIGHT, 30), p -> p.lpush("{q}1", "moved"), "moved");
            wakes(pool, r, p -> p.bzpopmin(30, "ranking").getValue(), p -> p.zadd("ranking", 1.5, "first"), new Tuple("first", 1.5));
            Wait read = p -> p.xread(XReadParams.xReadParams().block(30_000), Map.of("log:of", StreamEntryID.LAST_ENTRY)).get(0).getKey();
            wakes(pool, r, read, p -> p.xadd("log:of", StreamEntryID.NEW_ENTRY, Map.of("f", "v")), "log:of");
            // Many wait at once, each with a connection of its own.
            List<Future<String>> waiting = new ArrayList<>();
            for (String key : keys("queue:", 50)) {
                waiting.add(JedisCheck.beside(() -> pool.blpop(60, key).get(1)));
            }
            untilBlocked(r, 50);
            for (int number = 0; number < 50; number++) {
                equal(r.rpush("queue:" + number, "of " + number), 1);
                equal(waiting.get(number).get(), "of " + number);
            }
        }
        // What a client gives up waiting for, it closes the connection over; nothing is popped for nobody.
        try (Jedis impatient = new Jedis(server, config().blockingSocketTimeoutMillis(50).build())) {
            impatient.blpop(0, "left");
            throw new AssertionError("it waits no longer than it should");
        } catch (JedisConnectionException error) {
            equal(error.getMessage().contains("Read timed out"), true);
        }
        untilBlocked(r, 0);
        equal(r.rpush("left", "1"), 1);
        equal(r.llen("left"), 1);
    }

    private static void channels(Jedis r, Jedis other) throws Exception {
        JedisCheck.Listener listener = new JedisCheck.Listener();
        Future<?> listening = JedisCheck.beside(() -> r.subscribe(listener, "news", "weather"));
        listener.hears("+news 1", "+weather 2");
        listener.psubscribe("n?w*");
        listener.hears("+n?w* 3");
        equal(other.publish("weather", "ping!"), 1);
        listener.hears("weather ping!", "pong weather");
        // Messages while a pipeline is on its way; of channels that are together, so in order.
        Pipeline pipeline = other.pipelined();
        for (int number = 0; number < 1000; number++) {
            pipeline.publish("new:{s}:" + number, String.valueOf(number));
        }
        equal(pipeline.syncAndReturnAll(), Collections.nCopies(1000, 1L));
        for (int number = 0; number < 1000; number++) {
            listener.hears("n?w* new:{s}:" + number + " " + number);
        }
        listener.unsubscribe("weather");
        listener.hears("-weather 2");
        listener.unsubscribe();
        listener.hears("-news 1");
        listener.punsubscribe();
        listener.hears("-n?w* 0");
        listening.get();
        equal(other.publish("news", "nobody"), 0);
        equal(r.get("nothing"), null);
        // Likewise in bytes.
        byte[] text = {0, (byte) 0xff, '\r', '\n'};
        BinaryJedisPubSub once = new BinaryJedisPubSub() {
            @Override
            public void onMessage(byte[] channel, byte[] message) {
                equal(message, text);
                unsubscribe();
            }
        };
        Future<?> hearing = JedisCheck.beside(() -> r.subscribe(once, text));
        JedisCheck.until(() -> other.publish(text, text) == 1);
        hearing.get();
        equal(r.ping(), "PONG");
    }

    private static void scan(Jedis r) {
        String[] keys = keys("scan:", 2000);
        Pipeline pipeline = r.pipelined();
        for (String key : keys) {
            pipeline.set(key, "1");
        }
        pipeline.sync();
        Set<String> expected = Set.of(keys);
        Set<String> found = new TreeSet<>();
        String cursor = ScanParams.SCAN_POINTER_START;
        do {
            ScanResult<String> part = r.scan(cursor, new ScanParams().match("scan:*").count(100));
            found.addAll(part.getResult());
            cursor = part.getCursor();
        } while (!cursor.equals(ScanParams.SCAN_POINTER_START));
        equal(found, expected);
        equal(r.keys("scan:*"), expected);
        equal(r.unlink(keys), 2000);
    }

    private static void pools() throws Exception {
        try (JedisPooled pool = new JedisPooled(server, config().build(), JedisCheck.pool(8))) {
            List<Future<?>> all = new ArrayList<>();
            for (String key : keys("pool:", 50)) {
                all.add(JedisCheck.beside(() -> {
                    for (int round = 0; round < 20; round++) {
                        equal(pool.incr(key), round + 1);
                        equal(pool.mget(key, "nothing"), Arrays.asList(String.valueOf(round + 1), null));
                    }
                }));
            }
            for (Future<?> each : all) {
                each.get();
            }
            equal(pool.getPool().getNumActive(), 0);
            try (Pipeline pipeline = pool.pipelined()) {
                List<Response<String>> answers = new ArrayList<>();
                for (String key : keys("pool:", 50)) {
                    answers.add(pipeline.get(key));
                }
                pipeline.sync();
                answers.forEach(answer -> equal(answer.get(), "20"));
            }
            try (AbstractTransaction transaction = pool.transaction(false)) {
                equal(transaction.watch("{w}a"), "OK");
                equal(pool.set("{w}a", "7"), "OK");
                transaction.multi();
                transaction.set("{w}a", "8");
                equal(transaction.exec(), null);
            }
            // One that is left in the middle is ended by the library, and its connection used again.
            try (AbstractTransaction transaction = pool.multi()) {
                transaction.set("{w}a", "9");
            }
            equal(pool.get("{w}a"), "7");
            equal(pool.scanIteration(10, "pool:*").collect(new TreeSet<>()), Set.of(keys("pool:", 50)));
        }
        // Whatever was closed behind its back it notices as it lends it.
        JedisPoolConfig testing = new JedisPoolConfig();
        testing.setTestOnBorrow(true);
        try (Jedis r = connect(); JedisPool pool = new JedisPool(testing, server, config().build())) {
            List<Jedis> lent = IntStream.range(0, 8).mapToObj(number -> pool.getResource()).collect(Collectors.toList());
            lent.forEach(each -> equal(each.ping(), "PONG"));
            lent.forEach(Jedis::close);
            r.clientKill(new ClientKillParams().type(ClientType.NORMAL).skipMe(ClientKillParams.SkipMe.YES));
            for (int number = 0; number < 8; number++) {
                try (Jedis each = pool.getResource()) {
                    equal(each.get("pool:1"), "20");
                }
            }
        }
    }

    // What it has read stays with it until somebody changes it.
    private static void caching(Jedis r) throws Exception {
        String[] keys = keys("cached:", 200);
        try (JedisPooled pool = new JedisPooled(server, config().build(), JedisCheck.cache(), JedisCheck.pool(4))) {
            for (int round = 0; round < 3; round++) {
                String value = "value " + round;
                for (String key : keys) {
                    equal(r.set(key, value), "OK");
                }
                for (String key : keys) {
                    JedisCheck.until(() -> value.equals(pool.get(key)));
                }
                long hits = pool.getCache().getStats().getHitCount();
                for (String key : keys) {
                    equal(pool.get(key), value);
                }
                equal(pool.getCache().getStats().getHitCount() - hits, 200);
            }
            equal(pool.mget("cached:1", "cached:2"), List.of("value 2", "value 2"));
            equal(r.del("cached:2"), 1);
            JedisCheck.until(() -> Arrays.asList("value 2", null).equals(pool.mget("cached:1", "cached:2")));
            // What it changes itself it hears of likewise.
            equal(pool.set("cached:1", "own"), "OK");
            JedisCheck.until(() -> "own".equals(pool.get("cached:1")));
        }
    }

    public static void main(String[] args) {
        server = new HostAndPort("127.0.0.1", Integer.parseInt(args[0]));
        protocol = args[1];
        password = args[2];
        JedisCheck.main(() -> {
            login();
            Jedis r = connect();
            Jedis other = connect();
            values(r);
            binary(r);
            pipelines(r);
            transactions(r, other);
            scripts(r);
            blocking(r);
            channels(r, other);
            scan(r);
            if (protocol.equals("3")) {
                caching(r);
            }
            r.close();
            other.close();
            pools();
        });
    }
}

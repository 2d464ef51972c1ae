// JedisClusterClient PORT PROTOCOL [lose]: work through JedisCluster, every answer checked. With `lose` there is a second proxy: once the
// program says "ready", the one at PORT goes away, while threads of the program are at work.

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicLong;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import redis.clients.jedis.ClusterPipeline;
import redis.clients.jedis.DefaultJedisClientConfig;
import redis.clients.jedis.HostAndPort;
import redis.clients.jedis.JedisCluster;
import redis.clients.jedis.Response;
import redis.clients.jedis.Transaction;
import redis.clients.jedis.exceptions.JedisClusterOperationException;
import redis.clients.jedis.exceptions.JedisConnectionException;
import redis.clients.jedis.exceptions.JedisDataException;
import redis.clients.jedis.exceptions.JedisNoScriptException;

final class JedisClusterClient {
    private static HostAndPort server;
    private static String protocol;

    private static DefaultJedisClientConfig.Builder config() {
        return JedisCheck.config(protocol);
    }

    private static JedisCluster connect(DefaultJedisClientConfig.Builder config) {
        // By how long it may try is decided how long it waits, at random, before it looks for other nodes.
        return new JedisCluster(Set.of(server), config.build(), 5, Duration.ofSeconds(10), JedisCheck.pool(20));
    }

    private static void equal(Object found, Object expected) {
        JedisCheck.equal(found, expected);
    }

    private static void equal(long found, long expected) {
        JedisCheck.equal(found, expected);
    }

    private static List<String> keys(String start, int count) {
        return IntStream.range(0, count).mapToObj(number -> start + number).collect(Collectors.toList());
    }

    // What is sent by the slot of its key.
    private static void values(JedisCluster r) throws Exception {
        for (String key : keys("key:", 300)) {
            equal(r.set(key, "1"), "OK");
            equal(r.incr(key), 2);
            equal(r.get(key), "2");
            equal(r.expire(key, 100), 1);
        }
        equal(r.mset("{tag}a", "1", "{tag}b", "2"), "OK");
        equal(r.mget("{tag}a", "{tag}b", "{tag}nothing"), Arrays.asList("1", "2", null));
        equal(r.del("{tag}a", "{tag}b", "{tag}nothing"), 2);
        equal(r.sadd("{set}1", "a", "b"), 2);
        equal(r.sadd("{set}2", "b", "c"), 2);
        equal(r.sinterstore("{set}3", "{set}1", "{set}2"), 1);
        equal(r.rename("{set}3", "{set}4"), "OK");
        equal(r.smembers("{set}4"), Set.of("b"));
        equal(r.unlink("{set}1", "{set}2", "{set}4"), 3);
        // It refuses by itself what is not of one slot.
        try {
            r.mget("this", "that");
            throw new AssertionError("keys of several slots");
        } catch (JedisClusterOperationException error) {
            equal(error.getMessage().contains("slot"), true);
        }
        JedisCheck.fails(() -> r.lpush("key:1", "1"), JedisCheck.ERROR_OF_TYPE);
    }

    private static void pipelines(JedisCluster r) {
        List<String> keys = keys("key:", 300);
        List<Response<List<String>>> answers = new ArrayList<>();
        try (ClusterPipeline pipeline = r.pipelined()) {
            for (String key : keys) {
                pipeline.set("{" + key + "}2", key);
                answers.add(pipeline.mget("{" + key + "}2", key));
            }
            Response<Long> wrong = pipeline.lpush("key:1", "1");
            pipeline.sync();
            for (int number = 0; number < keys.size(); number++) {
                equal(answers.get(number).get(), List.of(keys.get(number), "2"));
            }
            try {
                equal(wrong.get(), "refused");
            } catch (JedisDataException error) {
                equal(error.getMessage(), JedisCheck.ERROR_OF_TYPE);
            }
            for (String key : keys) {
                pipeline.del("{" + key + "}2");
            }
            pipeline.sync();
        }
    }

    private static void transactions(JedisCluster r) {
        try (Transaction transaction = new Transaction(r.getConnectionFromSlot(0), true, true)) {
            transaction.set("{t}a", "1");
            transaction.incr("{t}a");
            equal(transaction.exec(), List.of("OK", 2L));
        }
        for (List<Object> expected : Arrays.asList(null, List.<Object>of("OK"))) {
            try (Transaction transaction = new Transaction(r.getConnectionFromSlot(0), false, true)) {
                equal(transaction.watch("{t}a"), "OK");
                if (expected == null) {
                    equal(r.set("{t}a", "7"), "OK");
                }
                transaction.multi();
                transaction.set("{t}a", "8");
                equal(transaction.exec(), expected);
            }
        }
        equal(r.getDel("{t}a"), "8");
    }

    private static void scripts(JedisCluster r) {
        String script = "return redis.call('incrby', KEYS[1], ARGV[1])";
        equal(r.eval("return {KEYS[1], ARGV[1]}", 1, "k", "v"), List.of("k", "v"));
        try {
            equal(r.evalsha("f".repeat(40), 1, "k"), "refused");
        } catch (JedisNoScriptException error) {
            equal(error.getMessage(), "NOSCRIPT No matching script. Please use EVAL.");
        }
        String loaded = r.scriptLoad(script, "any key");
        equal(r.scriptExists("any key", loaded, "f".repeat(40)), List.of(true, false));
        for (String key : keys("key:", 50)) {
            equal(r.evalsha(loaded, 1, key, "7"), 9L);
            equal(r.decrBy(key, 7), 2);
        }
    }

    private static void blocking(JedisCluster r) throws Exception {
        equal(r.blpop(0.05, "queue"), null);
        List<Future<List<String>>> waiting = new ArrayList<>();
        List<String> keys = keys("queue:", 10);
        for (String key : keys) {
            waiting.add(JedisCheck.beside(() -> r.blpop(60, key)));
        }
        for (int number = 0; number < keys.size(); number++) {
            equal(r.rpush(keys.get(number), "pushed"), 1);
            equal(waiting.get(number).get(), List.of(keys.get(number), "pushed"));
        }
    }

    private static void shardedChannels(JedisCluster r) throws Exception {
        JedisCheck.ShardListener listener = new JedisCheck.ShardListener();
        Future<?> listening = JedisCheck.beside(() -> r.ssubscribe(listener, "{s}1", "{s}2"));
        listener.hears("+{s}1 1", "+{s}2 2");
        for (int number = 0; number < 100; number++) {
            equal(r.spublish("{s}2", "hello " + number), 1);
            listener.hears("{s}2 hello " + number);
        }
        listener.sunsubscribe();
        listening.get();
        equal(r.spublish("{s}2", "nobody"), 0);
    }

    // What goes to any of the primaries, or to each of them.
    private static void whole(JedisCluster r) throws Exception {
        JedisCheck.Listener listener = new JedisCheck.Listener();
        Future<?> listening = JedisCheck.beside(() -> r.subscribe(listener, "news"));
        listener.hears("+news 1");
        equal(r.publish("news", "ping!"), 1);
        listener.hears("news ping!", "pong news");
        listener.psubscribe("n?w*");
        listener.hears("+n?w* 2");
        listener.unsubscribe();
        listener.punsubscribe();
        listener.hears("-news 1", "-n?w* 0");
        listening.get();
        equal(r.scanIteration(50, "key:*").collect(new TreeSet<>()), Set.copyOf(keys("key:", 300)));
        equal(r.keys("{key:7}*").size(), 0);
        equal(r.ping(), "PONG");
        equal(r.scriptExists(List.of(r.scriptLoad("return 7"))), List.of(true));
        equal(r.flushAll(), "OK");
        equal(r.exists("key:1"), false);
        equal(r.scriptFlush(), "OK");
    }

    private static void work(JedisCluster r) throws Exception {
        values(r);
        pipelines(r);
        transactions(r);
        scripts(r);
        blocking(r);
        shardedChannels(r);
    }

    // Reads are spread over the replicas.
    private static void replicas() {
        try (JedisCluster r = connect(config().readOnlyForRedisClusterReplicas())) {
            equal(r.set("read", "1"), "OK");
            for (int number = 0; number < 20; number++) {
                equal(r.get("read"), "1");
            }
            equal(r.del("read"), 1);
        }
    }

    private static void caching(JedisCluster r) throws Exception {
        try (JedisCluster caching = new JedisCluster(Set.of(server), config().build(), JedisCheck.cache())) {
            for (int round = 0; round < 3; round++) {
                String value = "value " + round;
                for (String key : keys("cached:", 200)) {
                    equal(r.set(key, value), "OK");
                }
                for (String key : keys("cached:", 200)) {
                    JedisCheck.until(() -> value.equals(caching.get(key)));
                    equal(caching.get(key), value);
                }
            }
            equal(caching.getCache().getStats().getHitCount() > 0, true);
        }
    }

    // Threads count up keys of their own, and go on while the proxy goes away. What was on its way then may have been done or not.
    private static final class Load {
        private final AtomicBoolean over = new AtomicBoolean();
        private final AtomicLong done = new AtomicLong();
        private final List<Future<?>> threads = new ArrayList<>();

        Load(JedisCluster r) {
            for (String key : keys("load:", 8)) {
                threads.add(JedisCheck.beside(() -> count(r, key)));
            }
        }

        private void count(JedisCluster r, String key) {
            for (long least = 1; !over.get();) {
                try {
                    long found = r.incr(key);
                    equal(found >= least, true);
                    least = found + 1;
                    done.incrementAndGet();
                } catch (JedisClusterOperationException | JedisConnectionException lost) {
                    // The client looks for another proxy; how often an application has to try is the library's affair.
                }
            }
        }

        void goesOn() throws Exception {
            long before = done.get();
            JedisCheck.until(() -> done.get() > before + 1000);
        }

        void end() throws Exception {
            over.set(true);
            for (Future<?> thread : threads) {
                thread.get();
            }
        }
    }

    private static void lose(JedisCluster r) throws Exception {
        equal(r.getClusterNodes().size(), 2);
        equal(r.set("stays", "1"), "OK");
        Load load = new Load(r);
        load.goesOn();
        System.out.println("ready");
        equal(new BufferedReader(new InputStreamReader(System.in)).readLine(), "gone");
        load.goesOn();
        load.end();
        equal(r.getDel("stays"), "1");
        work(r);
        // For what has no key, Jedis 6.2 to 7.5.3 keep to the primaries that they found at first: there the application connects again.
        try {
            r.publish("news", "nobody");
        } catch (JedisClusterOperationException error) {
            equal(error.getMessage(), "No reachable node in cluster.");
            Set<String> left = r.getClusterNodes().keySet();
            equal(left.size(), 1);
            server = HostAndPort.from(left.iterator().next());
            r = connect(config());
        }
        whole(r);
    }

    public static void main(String[] args) {
        server = new HostAndPort("127.0.0.1", Integer.parseInt(args[0]));
        protocol = args[1];
        JedisCheck.main(() -> {
            JedisCluster r = connect(config());
            work(r);
            whole(r);
            replicas();
            if (protocol.equals("3")) {
                caching(r);
            }
            if (args.length > 2) {
                lose(r);
            }
        });
    }
}

// What the programs for Jedis share.

import java.util.Objects;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.LinkedBlockingQueue;
import redis.clients.jedis.ConnectionPoolConfig;
import redis.clients.jedis.DefaultJedisClientConfig;
import redis.clients.jedis.JedisPubSub;
import redis.clients.jedis.JedisShardedPubSub;
import redis.clients.jedis.RedisProtocol;
import redis.clients.jedis.csc.CacheConfig;
import redis.clients.jedis.csc.Cacheable;
import redis.clients.jedis.csc.DefaultCache;
import redis.clients.jedis.csc.DefaultCacheable;
import redis.clients.jedis.csc.EvictionPolicy;
import redis.clients.jedis.exceptions.JedisException;

final class JedisCheck {
    static final String ERROR_OF_TYPE = "WRONGTYPE Operation against a key holding the wrong kind of value";

    interface Work {
        void run() throws Exception;
    }

    private static final ExecutorService THREADS = Executors.newCachedThreadPool();

    // Runs the program; nothing that it leaves open keeps the process from ending.
    static void main(Work program) {
        try {
            program.run();
            System.out.println("all well");
            System.exit(0);
        } catch (Throwable error) {
            fail(error);
        }
    }

    private static void fail(Throwable error) {
        error.printStackTrace();
        System.exit(1);
    }

    static void equal(Object found, Object expected) {
        if (!Objects.deepEquals(found, expected)) {
            throw new AssertionError(String.format("found %.300s, expected %.300s", found, expected));
        }
    }

    static void equal(long found, long expected) {
        equal((Object) found, expected);
    }

    // It throws this error.
    static void fails(Work work, String text) throws Exception {
        try {
            work.run();
        } catch (JedisException error) {
            equal(error.getMessage(), text);
            return;
        }
        throw new AssertionError("not refused: " + text);
    }

    // Runs it beside the program, which may ask for what comes of it, and ends if it fails.
    static <T> Future<T> beside(Callable<T> work) {
        return THREADS.submit(() -> {
            try {
                return work.call();
            } catch (Throwable error) {
                fail(error);
                throw error;
            }
        });
    }

    static Future<?> beside(Work work) {
        return beside(() -> {
            work.run();
            return null;
        });
    }

    static void until(Callable<Boolean> holds) throws Exception {
        while (!holds.call()) {
            Thread.onSpinWait();
        }
    }

    static DefaultJedisClientConfig.Builder config(String protocol) {
        RedisProtocol version = protocol.equals("3") ? RedisProtocol.RESP3 : RedisProtocol.RESP2;
        return DefaultJedisClientConfig.builder().protocol(version).timeoutMillis(20_000).blockingSocketTimeoutMillis(60_000);
    }

    static ConnectionPoolConfig pool(int size) {
        ConnectionPoolConfig pool = new ConnectionPoolConfig();
        pool.setMaxTotal(size);
        pool.setMaxIdle(size);
        return pool;
    }

    // The library's cache of what it has read, for servers of any version.
    public static final class AnyServersCache extends DefaultCache {
        public AnyServersCache(int size, EvictionPolicy policy, Cacheable cacheable) {
            super(size, cacheable, policy);
        }

        @Override
        public boolean compatibilityMode() {
            return true;
        }
    }

    static CacheConfig cache() {
        return CacheConfig.builder().maxSize(1000).cacheable(new DefaultCacheable()).cacheClass(AnyServersCache.class).build();
    }

    // Notes what is heard, in order.
    static final class Listener extends JedisPubSub {
        private final BlockingQueue<String> heard = new LinkedBlockingQueue<>();

        void hears(String... expected) throws InterruptedException {
            for (String each : expected) {
                equal(heard.take(), each);
            }
        }

        @Override
        public void onMessage(String channel, String message) {
            heard.add(channel + " " + message);
            // From here, since to another thread the answer may come sooner than the library is ready to take it for one.
            if (message.equals("ping!")) {
                ping(channel);
            }
        }

        @Override
        public void onPMessage(String pattern, String channel, String message) {
            heard.add(pattern + " " + channel + " " + message);
        }

        @Override
        public void onSubscribe(String channel, int count) {
            heard.add("+" + channel + " " + count);
        }

        @Override
        public void onUnsubscribe(String channel, int count) {
            heard.add("-" + channel + " " + count);
        }

        @Override
        public void onPSubscribe(String pattern, int count) {
            heard.add("+" + pattern + " " + count);
        }

        @Override
        public void onPUnsubscribe(String pattern, int count) {
            heard.add("-" + pattern + " " + count);
        }

        @Override
        public void onPong(String text) {
            heard.add("pong " + text);
        }
    }

    // Likewise for sharded channels.
    static final class ShardListener extends JedisShardedPubSub {
        private final BlockingQueue<String> heard = new LinkedBlockingQueue<>();

        void hears(String... expected) throws InterruptedException {
            for (String each : expected) {
                equal(heard.take(), each);
            }
        }

        @Override
        public void onSMessage(String channel, String message) {
            heard.add(channel + " " + message);
        }

        @Override
        public void onSSubscribe(String channel, int count) {
            heard.add("+" + channel + " " + count);
        }

        @Override
        public void onSUnsubscribe(String channel, int count) {
            heard.add("-" + channel + " " + count);
        }
    }
}

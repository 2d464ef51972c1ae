//! The crate `redis`: typical work, every answer checked, by several tasks that share a connection and several that do not.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use futures_util::StreamExt;
use redis::{
    AsyncCommands, Client, ErrorKind, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo, RedisResult, Script,
    ServerErrorKind, Value,
    aio::{MultiplexedConnection, transaction_async},
    pipe,
};

use crate::servers::{FixedCluster, connect_with, plain_redis};

async fn check(protocol: ProtocolVersion) {
    let (redis, cluster) = tokio::join!(plain_redis(), FixedCluster::start());
    for port in [redis.port(), cluster.port] {
        let info = || RedisConnectionInfo::default().set_protocol(protocol);
        let mut connection = connect_with(port, info()).await;
        values(&mut connection).await.unwrap();
        many_keys(&mut connection).await.unwrap();
        errors(&mut connection).await;
        big_and_binary(&mut connection).await.unwrap();
        scripts(&mut connection).await.unwrap();
        transactions(connect_with(port, info()).await, connection.clone()).await.unwrap();
        blocking(connect_with(port, info()).await, &mut connection).await.unwrap();
        publishing(
            Client::open(("127.0.0.1", port).into_connection_info().unwrap().set_redis_settings(info())).unwrap(),
            &mut connection,
        )
        .await
        .unwrap();
        let other = connect_with(port, info().set_db(3)).await;
        connections(&mut connection, other).await.unwrap();

        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..20 {
            let own = if task % 2 == 0 { connection.clone() } else { connect_with(port, info()).await };
            tasks.spawn(pipelines(own, task));
        }
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap().unwrap();
        }
    }
    cluster.stop().await;
}

async fn values(r: &mut MultiplexedConnection) -> RedisResult<()> {
    assert_eq!(r.set_ex::<_, _, String>("s", "value", 100).await?, "OK");
    assert!(!r.set_nx::<_, _, bool>("s", "other").await?);
    assert_eq!(r.get::<_, String>("s").await?, "value");
    assert!((90..=100).contains(&r.ttl::<_, i64>("s").await?));
    assert_eq!(r.get::<_, Option<String>>("nothing").await?, None);
    assert_eq!(r.incr::<_, _, i64>("n", 41).await?, 41);
    assert_eq!(r.incr::<_, _, f64>("n", 0.5).await?, 41.5);
    r.hset_multiple::<_, _, _, ()>("h", &[("a", "1"), ("b", "two")]).await?;
    let hash = HashMap::from([("a".to_owned(), "1".to_owned()), ("b".to_owned(), "two".to_owned())]);
    assert_eq!(r.hgetall::<_, HashMap<String, String>>("h").await?, hash);
    assert_eq!(r.rpush::<_, _, i64>("l", &[1, 2, 3]).await?, 3);
    assert_eq!(r.lrange::<_, Vec<i64>>("l", 0, -1).await?, [1, 2, 3]);
    assert_eq!(r.sadd::<_, _, i64>("{s}1", &["a", "b"]).await?, 2);
    assert_eq!(r.sadd::<_, _, i64>("{s}2", &["b", "c"]).await?, 2);
    assert_eq!(r.sinter::<_, HashSet<String>>(&["{s}1", "{s}2"]).await?, HashSet::from(["b".to_owned()]));
    assert_eq!(r.zadd_multiple::<_, _, _, i64>("z", &[(1.0, "one"), (2.5, "two")]).await?, 2);
    let ranked = [("one".to_owned(), 1.0), ("two".to_owned(), 2.5)];
    assert_eq!(r.zrange_withscores::<_, Vec<(String, f64)>>("z", 0, -1).await?, ranked);
    assert_eq!(r.zscore::<_, _, f64>("z", "two").await?, 2.5);
    assert_eq!(r.key_type::<_, String>("z").await?, "zset");
    Ok(())
}

async fn many_keys(r: &mut MultiplexedConnection) -> RedisResult<()> {
    let pairs: Vec<_> = (0..1000).map(|number| (format!("many:{number}"), number)).collect();
    let keys: Vec<_> = pairs.iter().map(|(key, _)| key).collect();
    r.mset::<_, _, ()>(&pairs).await?;
    assert_eq!(r.mget::<_, Vec<i32>>(&keys).await?, (0..1000).collect::<Vec<_>>());
    assert_eq!(r.mget::<_, Vec<Option<i32>>>(&["many:5", "nothing", "many:5"]).await?, [Some(5), None, Some(5)]);
    assert_eq!(r.exists::<_, i64>(&keys).await?, 1000);
    assert_eq!(r.del::<_, i64>(&keys[..400]).await?, 400);
    assert_eq!(r.unlink::<_, i64>(&keys).await?, 600);
    Ok(())
}

async fn pipelines(mut r: MultiplexedConnection, task: usize) -> RedisResult<()> {
    for round in 0..20 {
        let keys: Vec<_> = (0..30).map(|number| format!("task:{task}:{number}")).collect();
        let mut pipeline = pipe();
        for (number, key) in keys.iter().enumerate() {
            pipeline.set(key, number).ignore().incr(key, round).cmd("MGET").arg(key).arg("nothing").del(key);
        }
        let answers: Vec<(i64, (i64, Option<String>), i64)> = pipeline
            .query_async::<Vec<Value>>(&mut r)
            .await?
            .chunks(3)
            .map(|three| redis::from_redis_value(Value::Array(three.to_vec())).unwrap())
            .collect();
        let expected: Vec<_> = (0..30).map(|number| (number + round, (number + round, None), 1)).collect();
        assert_eq!(answers, expected);
    }
    Ok(())
}

async fn errors(r: &mut MultiplexedConnection) {
    r.set::<_, _, ()>("text", "abc").await.unwrap();
    let error = r.lpush::<_, _, i64>("text", 1).await.unwrap_err();
    assert_eq!(
        (error.code(), error.detail()),
        (Some("WRONGTYPE"), Some("Operation against a key holding the wrong kind of value"))
    );
    let error = r.incr::<_, _, i64>("text", 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Server(ServerErrorKind::ResponseError));
    assert_eq!(error.detail(), Some("value is not an integer or out of range"));
    let error = redis::cmd("NONSENSE").arg("a").exec_async(r).await.unwrap_err();
    assert_eq!(error.detail(), Some("unknown command 'NONSENSE', with args beginning with: 'a' "));
}

async fn big_and_binary(r: &mut MultiplexedConnection) -> RedisResult<()> {
    let big: Vec<u8> = (0..1_048_576_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    r.set::<_, _, ()>("big", &big).await?;
    assert!(r.get::<_, Vec<u8>>("big").await? == big);
    let all: Vec<u8> = (0..=255).collect();
    for key in [b"\0".as_slice(), b"\r\n", b"*1\r\n$4\r\nPING\r\n", b"", &all] {
        r.set::<_, _, ()>(key, key).await?;
        assert!(r.mget::<_, Vec<Vec<u8>>>(&[key, b"big"]).await? == [key, &big]);
        assert_eq!(r.del::<_, i64>(key).await?, 1);
    }
    Ok(())
}

async fn scripts(r: &mut MultiplexedConnection) -> RedisResult<()> {
    let script = "redis.call('mset', KEYS[1], ARGV[1], KEYS[2], 2) return redis.call('mget', unpack(KEYS))";
    let answer: Vec<i64> = redis::cmd("EVAL").arg(script).arg(2).arg("{e}1").arg("{e}2").arg(1).query_async(r).await?;
    assert_eq!(answer, [1, 2]);
    // It sends EVALSHA, and loads the script once it was told NOSCRIPT.
    let script = Script::new("return redis.call('incrby', KEYS[1], ARGV[1])");
    for number in 0..50 {
        assert_eq!(script.key(format!("script:{number}")).arg(7).invoke_async::<i64>(r).await?, 7);
    }
    Ok(())
}

async fn transactions(own: MultiplexedConnection, mut other: MultiplexedConnection) -> RedisResult<()> {
    let answers: (i64, Vec<Option<i64>>) =
        pipe().atomic().set("{t}a", 1).ignore().incr("{t}a", 1).mget(&["{t}a", "{t}b"]).query_async(&mut own.clone()).await?;
    assert_eq!(answers, (2, vec![Some(2), None]));
    // Somebody else is faster, the first time.
    let mut attempts = 0;
    let found: Vec<i64> = transaction_async(own, &["{t}a"], |mut own, mut pipeline| {
        attempts += 1;
        let (first, mut other) = (attempts == 1, other.clone());
        async move {
            let before: i64 = own.get("{t}a").await?;
            if first {
                other.set::<_, _, ()>("{t}a", 7).await?;
            }
            pipeline.set("{t}a", before + 1).ignore().get("{t}a").query_async(&mut own).await
        }
    })
    .await?;
    assert_eq!((found, attempts, other.get::<_, i64>("{t}a").await?), (vec![8], 2, 8));
    Ok(())
}

/// Until the server says that so many clients wait for data.
async fn until_blocked(r: &mut MultiplexedConnection, count: usize) -> RedisResult<()> {
    let expected = format!("blocked_clients:{count}\r\n");
    while !redis::cmd("INFO").arg("clients").query_async::<String>(r).await?.contains(&expected) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

async fn blocking(mut waiting: MultiplexedConnection, r: &mut MultiplexedConnection) -> RedisResult<()> {
    assert_eq!(waiting.blpop::<_, Option<(String, String)>>("queue", 0.05).await?, None);
    let mut own = waiting.clone();
    let popped = tokio::spawn(async move { own.blpop::<_, (String, String)>(&["{q}1", "{q}2"], 30.0).await });
    until_blocked(r, 1).await?;
    assert_eq!(r.rpush::<_, _, i64>("{q}2", "pushed").await?, 1);
    assert_eq!(popped.await.unwrap()?, ("{q}2".to_owned(), "pushed".to_owned()));
    until_blocked(r, 0).await?;
    let popped = tokio::spawn(async move { waiting.bzpopmin::<_, (String, String, f64)>("ranking", 30.0).await });
    until_blocked(r, 1).await?;
    assert_eq!(r.zadd::<_, _, _, i64>("ranking", "first", 1.5).await?, 1);
    assert_eq!(popped.await.unwrap()?, ("ranking".to_owned(), "first".to_owned(), 1.5));
    until_blocked(r, 0).await
}

async fn publishing(client: Client, r: &mut MultiplexedConnection) -> RedisResult<()> {
    let mut listener = client.get_async_pubsub().await?;
    listener.subscribe(&["news", "weather"]).await?;
    listener.psubscribe("n?ws").await?;
    listener.unsubscribe("weather").await?;
    // Messages while a pipeline is on its way.
    let mut pipeline = pipe();
    for number in 0..500 {
        pipeline.publish("news", number);
    }
    assert_eq!(pipeline.query_async::<Vec<i64>>(r).await?, [2; 500]);
    let mut heard: Vec<i64> =
        listener.on_message().take(1000).map(|message| message.get_payload::<i64>().unwrap()).collect().await;
    heard.sort_unstable();
    assert_eq!(heard, (0..500).flat_map(|number| [number; 2]).collect::<Vec<_>>());
    Ok(())
}

async fn connections(r: &mut MultiplexedConnection, mut in_3: MultiplexedConnection) -> RedisResult<()> {
    in_3.set::<_, _, ()>("db", "three").await?;
    assert!(!r.exists::<_, bool>("db").await?);
    redis::cmd("CLIENT").arg("SETNAME").arg("tester").exec_async(&mut in_3).await?;
    assert_eq!(redis::cmd("CLIENT").arg("GETNAME").query_async::<String>(&mut in_3).await?, "tester");
    assert!(redis::cmd("CLIENT").arg("LIST").query_async::<String>(r).await?.contains(" name=tester "));
    assert!(redis::cmd("INFO").query_async::<String>(r).await?.contains("redis_version:"));
    assert_eq!(r.ping::<String>().await?, "PONG");
    Ok(())
}

#[tokio::test]
async fn redis_rs_resp2() {
    check(ProtocolVersion::RESP2).await;
}

#[tokio::test]
async fn redis_rs_resp3() {
    check(ProtocolVersion::RESP3).await;
}

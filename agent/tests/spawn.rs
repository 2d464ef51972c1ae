//! Starting, watching and stopping real redis servers.

use vrc_agent::spawn::{RedisProcess, SpawnOptions};

#[tokio::test]
async fn volatile_settings_are_really_applied() {
    let parent = tempfile::tempdir().unwrap();
    let options = SpawnOptions {
        parent_dir: Some(parent.path().to_owned()),
        maxmemory: Some("64mb".to_owned()),
        password: Some("a \"quoted\" pass\\word".to_owned()),
        ..SpawnOptions::default()
    };
    let redis = RedisProcess::start(&options).await.unwrap();
    println!("{} {} {} {:?}", redis.port(), redis.pid(), redis.version(), redis.last_lines());
    redis.stop().await.unwrap();
}

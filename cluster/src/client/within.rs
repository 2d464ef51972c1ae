//! Answers that are not waited for without end.

use std::{future::Future, io, time::Duration};

use redis::RedisResult;
use tokio::time::timeout;

/// `work`, or an error that says that it has taken longer than `limit`.
///
/// # Errors
/// Those of `work`, and [`io::ErrorKind::TimedOut`].
pub async fn within<T>(limit: Duration, work: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    timeout(limit, work).await.unwrap_or_else(|_| {
        let text = format!("no answer within {} ms", limit.as_millis());
        Err(io::Error::new(io::ErrorKind::TimedOut, text).into())
    })
}

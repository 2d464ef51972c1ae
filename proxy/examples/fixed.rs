//! x
use vrc_proxy::*;
#[tokio::main(flavor = "current_thread")]
async fn main() {
    let args: Vec<String> = std::env::args().collect();
    let nodes = args[2].split(',').map(|n| n.parse().unwrap()).collect();
    let mut c = Config::new(Source::Nodes(nodes), args[1].parse().unwrap());
    c.workers = args[3].parse().unwrap();
    let p = Proxy::start(c).await.unwrap();
    println!("{:?}", p.listening());
    std::future::pending::<()>().await;
}

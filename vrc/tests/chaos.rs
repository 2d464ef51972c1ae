//! Short runs of the fault runner, one after the other: real processes, faults from a seed, and clients that check every
//! reply. `make chaos` plays longer ones.

use std::path::PathBuf;

use vrc_chaos::{Kind, Options};

#[test]
fn nothing_happens_that_must_not() {
    let vrc = || PathBuf::from(env!("CARGO_BIN_EXE_vrc"));
    play(Options::short(1, 20, vrc()));
    // Whatever befalls those who watch and tell, no node goes down for it, and no key is lost.
    let of_watchers = vec![
        Kind::CoordinatorKill,
        Kind::CoordinatorStop,
        Kind::CoordinatorCut,
        Kind::MasterKill,
        Kind::MasterStop,
        Kind::ProxyCut,
        Kind::ProxyStop,
        Kind::NodeReset,
    ];
    play(Options { kinds: of_watchers, pause: 700, ..Options::short(2, 10, vrc()) });
}

fn play(options: Options) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let report = runtime.block_on(vrc_chaos::run(&options, true)).unwrap();
    assert!(report.holds(), "{report}");
    println!("{report}");
}

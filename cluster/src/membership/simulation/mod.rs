//! Membership under faults: coordinators, a master, nodes and their agents, proxies and their clients, and operators who change homes,
//! in a world of made-up time.
//!
//! A seed decides everything, so a failing one can be played again: `VRC_SEED=17 cargo test -p vrc-cluster simulation`, and
//! `VRC_SEEDS=100000` plays that many, from `VRC_FIRST=500000` on if that is given; with `VRC_FLAW=NoLease` this rule alone is broken, and
//! `VRC_TALE=LaggardsTrusted` plays what is told of it.
//!
//! [`world`] plays. What must hold is checked where it can be seen: by [`checker`] at the master, when a write is carried out there, against
//! what was really done to the processes that the map speaks of; by [`reads`] at the clients; and by [`homes`] in what nodes hold.

mod checker;
mod homes;
mod random;
mod reads;
mod world;

use checker::Counts;
use world::{STRIKES, Script, Tale, World, tale};

use crate::flaw::{self, FLAWS, Flaw};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// The rule that is named there.
fn rule(variable: &str) -> Option<Flaw> {
    let name = std::env::var(variable).ok()?;
    let named = FLAWS.iter().copied().find(|flaw| format!("{flaw:?}") == name);
    Some(named.unwrap_or_else(|| panic!("{variable}={name} names no rule of flaw.rs")))
}

/// Plays a seed again, and shows its history.
fn show(seed: u64) {
    let broken = rule("VRC_FLAW");
    let tale = rule("VRC_TALE").or(broken).and_then(tale_for);
    let play = || tale.map_or_else(|| World::new(seed), |tale| World::told(tale, seed)).logging().run();
    let world = broken.map_or_else(play, |flaw| flaw::with(flaw, play));
    world.log().iter().for_each(|line| println!("{line}"));
    assert_eq!(world.violation(), None);
}

#[test]
fn simulation_holds_under_every_seed() {
    if let Some(seed) = number("VRC_SEED") {
        return show(seed);
    }
    let seeds = number("VRC_SEEDS").unwrap_or(2_000);
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let first = number("VRC_FIRST").unwrap_or(0);
    let mut sum = Counts::default();
    let mut failed = Vec::new();
    std::thread::scope(|scope| {
        let play = move |thread| {
            let (mut sum, mut failed) = (Counts::default(), Vec::new());
            for seed in (first + thread..first + seeds).step_by(threads as usize) {
                let world = World::new(seed).run();
                failed.extend(world.violation().map(|what| format!("{what}\nplay it again: VRC_SEED={seed}")));
                sum += world.counts();
            }
            (sum, failed)
        };
        let workers: Vec<_> = (0..threads).map(|thread| scope.spawn(move || play(thread))).collect();
        for worker in workers {
            let (counts, what) = worker.join().unwrap_or_else(|failure| std::panic::resume_unwind(failure));
            sum += counts;
            failed.extend(what);
        }
    });
    assert!(failed.is_empty(), "{} of {seeds} histories:\n{}", failed.len(), failed.join("\n"));
    println!("{seeds} histories: {sum:?}");
    let at_least = |count: usize, each: u64| assert!(count as u64 > seeds * each, "{sum:?}");
    at_least(sum.writes, 5);
    at_least(sum.flushes, 4);
    at_least(sum.reads, 100);
    at_least(sum.purges, 2);
    assert!((sum.lost_maps as u64) < seeds / 4);
}

/// Each fails where the rule is missing that it has brought to light; the second and third, where what is said in a cut is lost, and nobody
/// knows.
const ONCE_FAILED: [u64; 4] = [207_162, 364_830, 379_069, 13_973];

/// For as long as the same seed gives the same history.
#[test]
fn simulation_holds_where_it_once_failed() {
    let failed: Vec<_> = ONCE_FAILED.iter().filter_map(|seed| World::new(*seed).run().violation().map(str::to_owned)).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// How many histories a broken rule may survive.
const SURVIVED_MAX: u64 = 40_000;

/// What takes too many mishaps at once to come about by chance is told.
const TOLD: [(Flaw, Tale); 7] = [
    (Flaw::LagUntold, tale::PROXY_LAGS_AS_THE_LEADER_DIES),
    (Flaw::BegunCounts, tale::PROXY_BACK_BEFORE_PURGE_IS_KNOWN),
    (Flaw::GuestsFlushedWhileWriting, tale::NODE_DIES_WHILE_WRITTEN_BACK),
    (Flaw::TrustsForeignMaps, tale::MAP_OF_A_FAST_CLOCK),
    (Flaw::LaggardsTrusted, tale::PROXY_OUT_OF_TOUCH),
    (Flaw::EmptiesStrangers, tale::ANOTHER_ANSWERS),
    (Flaw::ForgetsWhoLostSlots, tale::LEADER_DIES_BEFORE_PURGE),
];

fn tale_for(flaw: Flaw) -> Option<Tale> {
    TOLD.iter().find(|(told, _)| *told == flaw).map(|(_, tale)| *tale)
}

/// How often each tale is played, with other clients each time.
const TELLINGS: u64 = 100;

/// Where what is seldom noticed was: these are played first, so that it is found at once, for as long as the same seed gives the same history.
const NOTICED_AT: [(Flaw, u64); 7] = [
    (Flaw::WritesWhileLeaseInDoubt, 866),
    (Flaw::EmptiedUnconfirmed, 8_760),
    (Flaw::SpeaksToAnyProcess, 8_722),
    (Flaw::ConfirmsUnsettled, 9_901),
    (Flaw::ComesInAsDown, 37_594),
    (Flaw::ClearedUnconfirmed, 1_881),
    (Flaw::BlamesOthers, 19_259),
];

/// What the checkers say of this world where a rule is broken, if they say nothing of it otherwise.
fn caught(flaw: Flaw, world: impl Fn() -> World) -> Option<String> {
    let what = flaw::with(flaw, || world().run().violation().map(str::to_owned))?;
    world().run().violation().is_none().then_some(what)
}

/// The same, of the first world in which they notice.
fn noticed(flaw: Flaw) -> Option<String> {
    if let Some(tale) = tale_for(flaw) {
        return (0..TELLINGS).find_map(|seed| caught(flaw, || World::told(tale, seed)));
    }
    let known = NOTICED_AT.iter().filter(|(known, _)| *known == flaw).map(|(_, seed)| *seed);
    known.chain(0..SURVIVED_MAX).find_map(|seed| caught(flaw, || World::new(seed)))
}

/// What is told comes about, to its last step, and nothing that should not.
#[test]
fn simulation_holds_in_all_that_is_told() {
    for (flaw, tale) in TOLD {
        for seed in 0..TELLINGS {
            let world = World::told(tale, seed).run();
            assert_eq!(world.violation(), None, "play it again: VRC_TALE={flaw:?} VRC_SEED={seed}");
            assert!(world.is_told(), "{flaw:?}");
        }
    }
}

/// Each rule is broken in turn, and the checkers notice.
#[test]
fn simulation_catches_every_broken_rule() {
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get());
    let next = std::sync::atomic::AtomicUsize::new(0);
    let survivors = std::sync::Mutex::new(Vec::new());
    let one = rule("VRC_FLAW");
    let is_wanted = |flaw: &Flaw| one.is_none_or(|one| *flaw == one);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(flaw) = FLAWS.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                    if !is_wanted(flaw) {
                        continue;
                    }
                    match noticed(*flaw) {
                        Some(what) => println!("{flaw:?}: {what}"),
                        None => survivors.lock().unwrap().push(*flaw),
                    }
                }
            });
        }
    });
    let survivors = survivors.into_inner().unwrap();
    assert!(survivors.is_empty(), "not noticed in {SURVIVED_MAX} histories: {survivors:?}");
}

/// Events after which something may go wrong first, and second, in the histories that are enumerated.
const FIRST_WITHIN: usize = 300;
const SECOND_WITHIN: usize = 120;

/// Small histories, whole: whatever goes wrong, before whichever event, and then whatever else before whichever of those that follow.
#[test]
fn simulation_holds_in_all_small_histories() {
    let single = (0..FIRST_WITHIN).flat_map(|at| STRIKES.map(|strike| vec![(at, strike)]));
    let second = |first| (1..SECOND_WITHIN).flat_map(move |at| STRIKES.map(|strike| vec![(10, first), (10 + at, strike)]));
    let scripts: Vec<Script> = single.chain(STRIKES.into_iter().flat_map(second)).collect();
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get());
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let scripts = &scripts;
            scope.spawn(move || {
                for script in scripts.iter().skip(thread).step_by(threads) {
                    if let Some(what) = World::scripted(script.clone()).run().violation() {
                        panic!("{script:?}: {what}");
                    }
                }
            });
        }
    });
    println!("{} histories", scripts.len());
}

/// The same seed gives the same history: nothing is left to a hash map's order or a clock.
#[test]
fn simulation_is_determined_by_its_seed() {
    for seed in [1, 2, 3] {
        assert_eq!(World::new(seed).logging().run().log(), World::new(seed).logging().run().log());
    }
}

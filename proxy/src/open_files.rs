//! How many files the process may have open: each client is one, and the limit that a shell hands on is often 1,024.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::limits::FILES_RESERVED;

/// Raises the soft limit as far as `clients_max` clients need and the hard limit allows, and says where that is too few.
pub(crate) fn make_room(clients_max: usize) {
    let limit = getrlimit(Resource::Nofile);
    let wanted = (clients_max as u64).saturating_add(FILES_RESERVED);
    let Some(raised) = raised(limit.current, limit.maximum, wanted) else { return };
    let result = setrlimit(Resource::Nofile, Rlimit { current: Some(raised), ..limit });
    let stands = if result.is_ok() { raised } else { limit.current.unwrap_or(raised) };
    if stands < wanted {
        tracing::warn!(
            "only {stands} files may be open here, and {clients_max} clients (--maxclients) and their nodes need {wanted}: raise the hard \
             limit (ulimit -Hn), or clients beyond it are not accepted"
        );
    }
}

/// The soft limit to set, where it is too low; `None` stands for no limit.
fn raised(soft: Option<u64>, hard: Option<u64>, wanted: u64) -> Option<u64> {
    let raised = hard.map_or(wanted, |hard| hard.min(wanted));
    soft.filter(|soft| *soft < wanted).map(|soft| soft.max(raised))
}

#[cfg(test)]
mod tests {
    use super::raised;

    #[test]
    fn a_limit_is_raised_as_far_as_needed_and_allowed_and_never_lowered() {
        for (soft, hard, expect) in [
            (Some(1_024), Some(1_048_576), Some(10_000)),
            (Some(1_024), None, Some(10_000)),
            (Some(1_024), Some(4_096), Some(4_096)),
            (Some(4_096), Some(4_096), Some(4_096)),
            (Some(10_000), Some(20_000), None),
            (None, None, None),
        ] {
            assert_eq!(raised(soft, hard, 10_000), expect, "{soft:?} {hard:?}");
        }
    }
}

//! Membership decided: `step(event, now) -> actions`.

//! One run of one plan, from the first start of its nodes to the verdict.
//!
//! Invariant: the outcome depends on the plan and the build alone.

use slog::Logger;

use crate::{
    bites::Bites,
    check,
    client::Client,
    core::Core,
    failure::Failure,
    history::Outcome as SendOutcome,
    plan::Plan,
    time::{Instant, Span},
    trace::Trace,
    world::World,
};

/// How often is asked, after the chaos, whether all clients are done.
const HEAL_STEP: Span = Span::milliseconds(500);
/// Time for replicas to apply and write what clients have seen.
const SETTLE: Span = Span::seconds(2);

/// What became of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub seed: u64,
    /// Over every event.
    pub digest: u64,
    pub failure: Option<Failure>,
    pub simulated: Span,
    pub acknowledged: u64,
    pub failed: u64,
    pub unknown: u64,
    pub bites: Bites,
    /// Progress was made after the chaos.
    pub healed: bool,
    pub events: u64,
    pub turns: u64,
}

/// Runs a plan with the clients of its workload.
pub fn run<C: Core>(plan: &Plan, clients: Vec<Box<dyn Client>>, logger: Logger, trace: Trace) -> Outcome {
    let mut world = World::<C>::new(plan.clone(), clients, logger, trace);
    let mut healed = false;
    let verdict = judge(plan, &mut world, &mut healed);
    let (events, turns) = world.events();
    let mut outcome = Outcome {
        seed: plan.seed,
        digest: world.digest(),
        failure: verdict.err(),
        simulated: world.now().since(Instant::default()),
        acknowledged: 0,
        failed: 0,
        unknown: 0,
        bites: world.bites().clone(),
        healed,
        events,
        turns,
    };
    for send in world.history().sends() {
        match send.outcome {
            SendOutcome::Acknowledged { .. } => outcome.acknowledged += 1,
            SendOutcome::Failed { .. } => outcome.failed += 1,
            SendOutcome::Unknown => outcome.unknown += 1,
        }
    }
    outcome
}

fn judge<C: Core>(plan: &Plan, world: &mut World<C>, healed: &mut bool) -> Result<(), Failure> {
    let chaos_ends = Instant::default() + plan.chaos;
    world.run_until(chaos_ends)?;
    let mut until = chaos_ends;
    let is_quiet = |world: &World<C>| world.have_clients_healed() && (plan.budget.over || world.is_refilled().is_ok());
    while until < chaos_ends + plan.heal && !is_quiet(world) {
        until = until + HEAL_STEP;
        world.run_until(until)?;
    }
    *healed = world.have_clients_healed();
    if *healed {
        let floor = Instant::default() + check::floor::SIMULATED;
        world.run_until((until + SETTLE).max(floor))?;
    }
    // What is wrong with the records explains more than that nothing moves any more.
    world.look_into_all()?;
    check::equal_segment_bytes::check(world.unhurt().map(|node| (node, world.disk(node))))?;
    if *healed {
        check::segments_verify::check(world.repairable().map(|node| (node, world.disk(node))))?;
    }
    check::history(world.history(), *healed)?;
    if world.is_over_budget() {
        // How much such a run does, the damage decides.
        return check::may_stop::over_budget(&world.stopped());
    }
    check::may_stop::within_budget(&world.stopped())?;
    check::progress_after_heal::check(&world.clients_wait_for())?;
    world.is_refilled()?;
    check::floor::check(world.now().since(Instant::default()), world.history().acknowledged().count())
}

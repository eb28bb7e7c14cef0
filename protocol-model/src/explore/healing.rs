//! Can every state heal? From each one that must, a goal has to be reachable without a further fault.

/// The steps that are no faults, turned round.
#[derive(Default)]
pub(super) struct Healing {
    must: Vec<bool>,
    /// (to, from)
    steps: Vec<(u32, u32)>,
    /// States with a step that is a goal.
    goals: Vec<u32>,
}

impl Healing {
    /// The next state by number; must it heal?
    pub(super) fn state(&mut self, must: bool) {
        self.must.push(must);
    }

    pub(super) fn step(&mut self, from: u32, to: u32, goal: bool) {
        self.steps.push((to, from));
        if goal {
            self.goals.push(from);
        }
    }

    /// How many states that must heal can't: those not met on the way back from the goals.
    pub(super) fn count_stuck(mut self) -> usize {
        self.steps.sort_unstable();
        let mut heals = vec![false; self.must.len()];
        let mut todo = self.goals;
        while let Some(state) = todo.pop() {
            if std::mem::replace(&mut heals[super::index(state)], true) {
                continue;
            }
            let first = self.steps.partition_point(|(to, _)| *to < state);
            let into = self.steps[first..]
                .iter()
                .take_while(|(to, _)| *to == state);
            todo.extend(into.map(|(_, from)| from));
        }
        let all = self.must.iter().zip(heals);
        all.filter(|(must, heals)| **must && !heals).count()
    }
}

//! Whether every state heals: a goal must be reachable from it without a fault.

/// The steps without faults, in reverse.
#[derive(Default)]
pub(super) struct Healing {
    must: Vec<bool>,
    /// (to, from)
    steps: Vec<(u32, u32)>,
    /// States with a step that is a goal.
    goals: Vec<u32>,
}

impl Healing {
    /// Adds the next state by number, and whether it must heal.
    pub(super) fn state(&mut self, must: bool) {
        self.must.push(must);
    }

    pub(super) fn step(&mut self, from: u32, to: u32, goal: bool) {
        self.steps.push((to, from));
        if goal {
            self.goals.push(from);
        }
    }

    /// Counts the states that must heal, and that no path back from a goal reaches.
    pub(super) fn count_stuck(mut self) -> usize {
        self.steps.sort_unstable();
        let mut heals = vec![false; self.must.len()];
        let mut todo = self.goals;
        while let Some(state) = todo.pop() {
            if std::mem::replace(&mut heals[super::index(state)], true) {
                continue;
            }
            let first = self.steps.partition_point(|(to, _)| *to < state);
            let into = self.steps[first..].iter().take_while(|(to, _)| *to == state);
            todo.extend(into.map(|(_, from)| from));
        }
        let all = self.must.iter().zip(heals);
        all.filter(|(must, heals)| **must && !heals).count()
    }
}

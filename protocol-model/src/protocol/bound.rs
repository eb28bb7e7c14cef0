//! A bound passes. Time is not counted: what a bound promises is that whatever was not renewed since it
//! began is of no use once it has passed, so its passing is one step that makes just that true.

use super::state::{Known, Row, State};
use super::{Bound, Protocol};
use crate::explore::{Steps, say};

impl<const N: usize> Protocol<N> {
    pub(super) fn pass_bound(&self, s: &State<N>, out: &mut Steps<State<N>>) {
        if s.past.elapsed {
            return;
        }
        match self.0.bound {
            Bound::D if s.row == Row::After => {
                let mut t = *s;
                t.past.elapsed = true;
                if self.0.fail_closed {
                    for node in &mut t.nodes {
                        if node.known == Known::Fresh {
                            node.known = Known::Stale;
                        }
                    }
                }
                out.go(t, say("D has passed since the COMMIT"));
            }
            Bound::Recheck if s.past.propagated => {
                let mut t = *s;
                for n in 0..N {
                    if !t.nodes[n].rechecked {
                        self.set_link(&mut t, n, None);
                        self.cut_off(&mut t, n);
                    }
                    t.nodes[n].rechecked = false;
                }
                t.past.elapsed = true;
                let label = say("the recheck period has passed since PROPAGATED");
                out.go(t, label);
            }
            Bound::None | Bound::D | Bound::Recheck => {}
        }
    }
}

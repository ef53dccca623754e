//! The protocol under a model checker: the janitors' real plans, a small etcd, and every order of what can happen.
//!
//! What is modelled, what is assumed and what was found is told in docs/coordination.md. `MODEL_DEEPER=n` goes n steps deeper.

mod carry;
mod explore;
mod holds;
mod identity;
mod moves;
mod mutants;
mod plans;
mod properties;
mod rescue;
mod scope;
mod seen;
mod story;
mod window;
mod world;

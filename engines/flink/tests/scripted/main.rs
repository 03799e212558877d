//! The controller, the scheduler and the command against a scripted `JobManager`: what goes wrong, told apart.

mod command;
mod scheduler;
mod server;
mod stops;

//! kontiki-controllers

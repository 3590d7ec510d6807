"""Run record in, report out: HTML, JUnit, Allure, JSON Schema."""

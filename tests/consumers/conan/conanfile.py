"""Builds and runs the find_package consumers against the Conan package."""
import os

from conan import ConanFile
from conan.tools.build import can_run
from conan.tools.cmake import CMake, cmake_layout


class SubbyteTest(ConanFile):
    settings = "os", "arch", "compiler", "build_type"
    generators = "CMakeDeps", "CMakeToolchain"

    def requirements(self):
        self.requires(self.tested_reference_str)

    def layout(self):
        cmake_layout(self)

    def build(self):
        cmake = CMake(self)
        cmake.configure({"COMPONENTS": "core,cpu,io,calibrate"}, "../find_package")
        cmake.build()

    def test(self):
        if can_run(self):
            for name in ("core", "cpu", "io", "calibrate"):
                self.run(os.path.join(self.cpp.build.bindir, name), env="conanrun")

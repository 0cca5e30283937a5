# Toolchain file: cross-compile for 64-bit ARM with Debian's g++, run what was built under qemu.
#
# The compiler looks into /usr/include after its own folders, and so finds the header-only packages
# of the host (xsimd, nlohmann_json, Eigen, Catch2 v2). Headers of the host's own architecture are
# in /usr/include/<architecture>, where it does not look.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64 -L /usr/aarch64-linux-gnu -cpu max)

# xsimd's package files are in a folder named after the host.
if(NOT xsimd_DIR)
  file(GLOB _xsimd_dirs /usr/lib/*/cmake/xsimd /usr/share/cmake/xsimd)
  if(_xsimd_dirs)
    list(GET _xsimd_dirs 0 xsimd_DIR)
  endif()
  unset(_xsimd_dirs)
endif()
# Python is run at build and test time, so it is the host's; the CUDA toolkit is the host's too, and
# of no use here.
set(CMAKE_DISABLE_FIND_PACKAGE_CUDAToolkit ON)

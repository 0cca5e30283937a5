# Builds and runs a consumer; WAY, and the other variables from CMakeLists.txt, say which:
#   find_package       installed and moved: each component alone, all together, pkg-config
#   add_subdirectory   the folder in another project
#   fetch_content      FetchContent with OVERRIDE_FIND_PACKAGE
#   vcpkg              the port, run with stand-ins for vcpkg's functions
#   include_path.*     -I alone: two units, C++20 and 23, without RTTI, without exceptions
file(REMOVE_RECURSE "${WORK}")
file(MAKE_DIRECTORY "${WORK}")

# run(<what> <command>...): fails the test when the command does.
function(run what)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(result)
    list(JOIN ARGN " " command)
    message(FATAL_ERROR "${what} failed: ${command}\n${output}")
  endif()
  string(STRIP "${output}" output)
  set(output "${output}" PARENT_SCOPE)
endfunction()

# refuse(<pattern> <command>...): fails the test unless the command fails with that message.
function(refuse pattern)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  string(REGEX REPLACE "[ \n]+" " " output "${output}")
  if(NOT result OR NOT output MATCHES "${pattern}")
    message(FATAL_ERROR "expected a failure that says \"${pattern}\", got (${result}):\n${output}")
  endif()
endfunction()

set(common -G "${GENERATOR}" "-DCMAKE_CXX_COMPILER=${COMPILER}")
set(without_dependencies -DCMAKE_DISABLE_FIND_PACKAGE_xsimd=ON
                         -DCMAKE_DISABLE_FIND_PACKAGE_nlohmann_json=ON)

# build_and_run(<folder of the consumer> <program>...)
function(build_and_run folder)
  run("building ${folder}" ${CMAKE_COMMAND} --build "${folder}")
  foreach(program IN LISTS ARGN)
    run("running ${program}" "${folder}/${program}")
  endforeach()
endfunction()

if(WAY STREQUAL "find_package")
  set(consumer "${SOURCE}/tests/consumers/find_package")
  # What is installed does not depend on what is found.
  run("configuring the library" ${CMAKE_COMMAND} ${common} -S "${SOURCE}" -B "${WORK}/library"
      -DSUBBYTE_BUILD_TESTS=OFF -DSUBBYTE_BUILD_EXAMPLES=OFF -DSUBBYTE_BUILD_BENCHMARKS=OFF
      ${without_dependencies})
  run("installing" ${CMAKE_COMMAND} --install "${WORK}/library" --prefix "${WORK}/prefix")

  # Every header is installed, and nothing else but the package files.
  file(GLOB_RECURSE required RELATIVE "${SOURCE}/include" "${SOURCE}/include/*.hpp")
  file(GLOB_RECURSE required_cuda RELATIVE "${SOURCE}/cuda" "${SOURCE}/cuda/*.cuh")
  list(APPEND required ${required_cuda})
  file(GLOB_RECURSE installed RELATIVE "${WORK}/prefix/include" "${WORK}/prefix/include/*")
  list(SORT required)
  list(SORT installed)
  if(NOT required STREQUAL installed)
    message(FATAL_ERROR "installed headers differ from include/ and cuda/:\n${installed}\n${required}")
  endif()

  # The prefix may move.
  file(RENAME "${WORK}/prefix" "${WORK}/moved")
  list(APPEND common "-DCMAKE_PREFIX_PATH=${WORK}/moved")

  refuse("component cpu needs xsimd"
         ${CMAKE_COMMAND} ${common} -S "${consumer}" -B "${WORK}/without_xsimd"
         -DCOMPONENTS=cpu -DCMAKE_DISABLE_FIND_PACKAGE_xsimd=ON)
  refuse("component io needs nlohmann_json"
         ${CMAKE_COMMAND} ${common} -S "${consumer}" -B "${WORK}/without_json"
         -DCOMPONENTS=io -DCMAKE_DISABLE_FIND_PACKAGE_nlohmann_json=ON)
  refuse("component typo needs a component of that name"
         ${CMAKE_COMMAND} ${common} -S "${consumer}" -B "${WORK}/typo" -DCOMPONENTS=core,typo)
  refuse("version" ${CMAKE_COMMAND} ${common} -S "${consumer}" -B "${WORK}/version"
         -DCOMPONENTS=core -DREQUIRED_VERSION=0.999)

  # Each alone, without the other's dependency.
  set(absent_core ${without_dependencies})
  set(absent_cpu -DCMAKE_DISABLE_FIND_PACKAGE_nlohmann_json=ON)
  set(absent_io -DCMAKE_DISABLE_FIND_PACKAGE_xsimd=ON)
  foreach(component IN ITEMS core cpu io calibrate)
    run("configuring a consumer of ${component} alone" ${CMAKE_COMMAND} ${common} -S "${consumer}"
        -B "${WORK}/${component}" -DCOMPONENTS=${component} ${absent_${component}})
    build_and_run("${WORK}/${component}" ${component})
  endforeach()
  find_program(nvcc nvcc HINTS /usr/local/cuda/bin)
  if(nvcc)
    run("configuring a consumer of cuda" ${CMAKE_COMMAND} ${common} -S "${consumer}"
        -B "${WORK}/cuda" -DCOMPONENTS=cuda ${without_dependencies})
    build_and_run("${WORK}/cuda" cuda)
  else()
    message(STATUS "no CUDA Toolkit here: component cuda is not tested")
  endif()
  refuse("component cuda needs the CUDA Toolkit"
         ${CMAKE_COMMAND} ${common} -S "${consumer}" -B "${WORK}/without_cuda"
         -DCOMPONENTS=cuda -DCMAKE_DISABLE_FIND_PACKAGE_CUDAToolkit=ON)
  run("configuring a consumer of all components" ${CMAKE_COMMAND} ${common} -S "${consumer}"
      -B "${WORK}/all" -DCOMPONENTS=core,cpu,io,calibrate)

  find_program(pkg_config NAMES pkg-config pkgconf)
  if(pkg_config)
    set(ENV{PKG_CONFIG_PATH} "${WORK}/moved/share/pkgconfig")
    foreach(component IN ITEMS core cpu io calibrate)
      run("pkg-config" ${pkg_config} --cflags --libs subbyte-${component})
      separate_arguments(flags UNIX_COMMAND "${output}")
      run("compiling with pkg-config's flags" ${COMPILER} -std=c++20 ${flags}
          "${SOURCE}/tests/consumers/${component}.cpp" -o "${WORK}/pkg_config_${component}")
      run("running" "${WORK}/pkg_config_${component}")
    endforeach()
  else()
    message(STATUS "no pkg-config here: its files are not tested")
  endif()

elseif(WAY STREQUAL "add_subdirectory" OR WAY STREQUAL "fetch_content")
  run("configuring the consumer" ${CMAKE_COMMAND} ${common} "-DSUBBYTE_SOURCE=${SOURCE}"
      -S "${SOURCE}/tests/consumers/${WAY}" -B "${WORK}/consumer")
  build_and_run("${WORK}/consumer" core cpu io calibrate)

elseif(WAY STREQUAL "vcpkg")
  run("the port" ${CMAKE_COMMAND} -D "SOURCE=${SOURCE}" -D "WORK=${WORK}" -D "GENERATOR=${GENERATOR}"
      -D "COMPILER=${COMPILER}" -P "${SOURCE}/tests/consumers/vcpkg.cmake")
  run("configuring the consumer" ${CMAKE_COMMAND} ${common} "-DCMAKE_PREFIX_PATH=${WORK}/package"
      -DCOMPONENTS=core,cpu,io,calibrate -S "${SOURCE}/tests/consumers/find_package" -B "${WORK}/consumer")
  build_and_run("${WORK}/consumer" core cpu io calibrate)

else()
  set(folder "${SOURCE}/tests/consumers/include_path")
  set(warnings -Wall -Wextra -Wpedantic -Wconversion -Werror)
  # program(<name> <flag>...)
  function(program name)
    run("compiling ${name}" ${COMPILER} ${ARGN} ${warnings} "-I${SOURCE}/include"
        "${folder}/main.cpp" "${folder}/another_unit.cpp" -pthread -o "${WORK}/${name}")
    run("running ${name}" "${WORK}/${name}")
  endfunction()
  program(c++20 -std=c++20)
  program(c++23_without_rtti -std=c++2b -fno-rtti)
  program(without_exceptions_and_rtti -std=c++20 -fno-exceptions -fno-rtti -DWITHOUT_IO)
endif()

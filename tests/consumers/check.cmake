# Builds and runs tests/consumers/${WAY}; see CMakeLists.txt for the arguments.
file(REMOVE_RECURSE "${WORK}")

# run(<what> <command>...): fails the test when the command does.
function(run what)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(result)
    message(FATAL_ERROR "${what} failed:\n${output}")
  endif()
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
set(consumer "${SOURCE}/tests/consumers/${WAY}")

if(WAY STREQUAL "find_package")
  run("configuring the library" ${CMAKE_COMMAND} ${common} -S "${SOURCE}" -B "${WORK}/library"
      -DSUBBYTE_BUILD_TESTS=OFF -DSUBBYTE_BUILD_EXAMPLES=OFF -DSUBBYTE_BUILD_BENCHMARKS=OFF)
  run("installing" ${CMAKE_COMMAND} --install "${WORK}/library" --prefix "${WORK}/prefix")

  # Every header is installed, and nothing else but the package files.
  file(GLOB_RECURSE required RELATIVE "${SOURCE}/include" "${SOURCE}/include/*.hpp")
  file(GLOB_RECURSE installed RELATIVE "${WORK}/prefix/include" "${WORK}/prefix/include/*")
  list(SORT required)
  list(SORT installed)
  if(NOT required STREQUAL installed)
    message(FATAL_ERROR "installed headers differ from include/:\n${installed}\n${required}")
  endif()

  # The prefix may move.
  file(RENAME "${WORK}/prefix" "${WORK}/moved")
  list(APPEND common "-DCMAKE_PREFIX_PATH=${WORK}/moved")

  refuse("component cpu needs xsimd"
         ${CMAKE_COMMAND} ${common} -S "${consumer}" -B "${WORK}/without_xsimd"
         -DCMAKE_DISABLE_FIND_PACKAGE_xsimd=ON)
  refuse("component typo needs a component of that name"
         ${CMAKE_COMMAND} ${common} -S "${consumer}" -B "${WORK}/typo" -DEXTRA_COMPONENT=typo)
  refuse("version" ${CMAKE_COMMAND} ${common} -S "${consumer}" -B "${WORK}/version"
         -DREQUIRED_VERSION=0.999)
  run("configuring a consumer of core without xsimd and JSON"
      ${CMAKE_COMMAND} ${common} -S "${consumer}" -B "${WORK}/core_only" -DCORE_ONLY=ON
      -DCMAKE_DISABLE_FIND_PACKAGE_xsimd=ON -DCMAKE_DISABLE_FIND_PACKAGE_nlohmann_json=ON)
else()
  list(APPEND common "-DSUBBYTE_SOURCE=${SOURCE}")
endif()

run("configuring the consumer" ${CMAKE_COMMAND} ${common} -S "${consumer}" -B "${WORK}/consumer")
run("building the consumer" ${CMAKE_COMMAND} --build "${WORK}/consumer")
foreach(program IN ITEMS core cpu io)
  run("running the consumer of ${program}" "${WORK}/consumer/${program}")
endforeach()
